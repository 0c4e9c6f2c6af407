"""lesioncam: from a table of image-level labels to heat maps, boxes, lesion masks, honest numbers and a report."""
