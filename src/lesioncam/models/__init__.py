"""Backbone, classifier, pooling by configuration, checkpoints."""
