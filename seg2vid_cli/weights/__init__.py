"""Where weights come from: the registry, checked files and networks built from them."""
