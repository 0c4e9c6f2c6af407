"""The one way of an image: from files to results."""
