"""A trained model and a shop's photos -> an index -> answers to a photo."""
