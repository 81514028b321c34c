//! The driver's half of both formats, for front ends that run devices themselves, and for tests of back ends.
