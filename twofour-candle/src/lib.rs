//! Learnable 2:4 sparsity for candle: masked and compressed linear layers with autograd.
