"""From a classifier and an image to a raw heat map."""
