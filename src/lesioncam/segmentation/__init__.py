"""From a heat map to thresholds, masks and boxes."""
