"""Tables, image files, preprocessing, augmentation, data sets and the phantom."""
