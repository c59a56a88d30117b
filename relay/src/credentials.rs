//! Where passwords come from.
