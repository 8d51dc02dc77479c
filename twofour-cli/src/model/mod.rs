//! Language models of LLaMA's family, a block at a time.
