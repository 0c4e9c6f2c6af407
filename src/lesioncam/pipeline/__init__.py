"""The whole way of an image in one function (`case.analyse`) and the verbs built on it (`steps`)."""
