//! The rules that every back-end program keeps, seen from outside: each test starts `examples/test-device.rs` as a
//! process. The messages are bytes written by hand, so that nothing of the project stands on both ends.

#[cfg(test)]
mod announcing;
#[cfg(test)]
mod coming;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod control;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod inheriting;
#[cfg(test)]
mod program;
#[cfg(test)]
mod starting;
#[cfg(test)]
mod stopping;
