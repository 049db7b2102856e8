"""Methods that answer with outside knowledge: nothing in the model changes. One file a method."""
