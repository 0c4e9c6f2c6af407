"""Mathematics only: arrays in, arrays out; no files, no state. Every formula cites its paper."""
