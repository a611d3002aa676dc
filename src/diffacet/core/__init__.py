"""The mathematics that models share: tensors in, tensors out."""
