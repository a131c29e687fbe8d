"""An example of a package that brings Tutelage a method, two threats and a model."""
