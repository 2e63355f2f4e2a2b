"""What the families of text models share: examples, tokens, metrics, and all that is done with a
model that answers texts with texts, whatever its architecture."""
