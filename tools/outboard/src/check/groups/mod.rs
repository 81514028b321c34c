//! The checks, a file for each group.

use super::catalogue::Check;

/// Checks, a line each: the id, what must hold, where that is written, and who finds out.
macro_rules! checks {
    ($($id:literal, $title:literal, $spec:expr, $run:ident;)*) => {
        &[$($crate::check::catalogue::Check { id: $id, title: $title, spec: $spec, run: $run }),*]
    };
}

mod blk;
mod config;
mod console;
mod framing;
mod gpio;
mod hostile;
mod i2c;
mod inflight;
mod input;
mod lifecycle;
mod log;
mod memory;
mod negotiation;
mod net;
mod program;
mod ring;
mod rng;
mod scmi;
mod setup;
mod state;
mod vsock;

/// All of them, in the order in which they run.
pub(super) const ALL: &[&[Check]] = &[
    framing::CHECKS,
    negotiation::CHECKS,
    memory::LAYOUT,
    memory::SLOTS,
    memory::WRONG,
    setup::QEMU,
    setup::VMM,
    setup::LIBRARY,
    setup::ORDER,
    config::READ,
    config::WRITE,
    log::CHECKS,
    state::RESET,
    state::TRANSFER,
    ring::requests::CHECKS,
    ring::shapes::CHECKS,
    ring::events::CHECKS,
    ring::sizes::CHECKS,
    ring::stops::CHECKS,
    hostile::chains::CHECKS,
    hostile::indirect::CHECKS,
    hostile::rings::CHECKS,
    hostile::notifiers::CHECKS,
    hostile::messages::CHECKS,
    inflight::shape::CHECKS,
    inflight::state::CHECKS,
    inflight::resume::CHECKS,
    inflight::wrong::CHECKS,
    lifecycle::CHECKS,
    blk::config::CHECKS,
    blk::requests::CHECKS,
    blk::shapes::CHECKS,
    blk::segments::CHECKS,
    blk::offers::CHECKS,
    blk::data::CHECKS,
    blk::queues::CHECKS,
    blk::stable::CHECKS,
    blk::read_only::CHECKS,
    blk::ranges::CHECKS,
    blk::zones::report::CHECKS,
    blk::zones::writes::CHECKS,
    blk::zones::states::CHECKS,
    blk::zones::limits::CHECKS,
    net::config::CHECKS,
    net::tx::CHECKS,
    net::headers::CHECKS,
    net::rx::CHECKS,
    net::queues::CHECKS,
    net::messages::CHECKS,
    net::control::CHECKS,
    net::filter::CHECKS,
    net::spread::CHECKS,
    net::calls::CHECKS,
    rng::CHECKS,
    i2c::CHECKS,
    scmi::messages::CHECKS,
    scmi::queues::CHECKS,
    gpio::CHECKS,
    input::CHECKS,
    console::CHECKS,
    vsock::packets::CHECKS,
    vsock::flows::CHECKS,
    program::CHECKS,
];
