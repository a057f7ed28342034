//! What holds for the tree itself, and not for what it does: which way modules depend, what the crates that are built may
//! be, and that the manual says what the programs do.

mod advisories;
mod layering;
mod licences;
mod manual;
