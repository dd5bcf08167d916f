"""How good a reconstruction is: plain functions of tensors, one number per image, object or scale."""
