"""From case results and truth to tables with intervals: never sees a model."""
