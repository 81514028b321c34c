//! SET_CONFIG, and configurations that change by themselves.

use outboard_vhost_user::message::{BackendRequest, flags};
use outboard_vhost_user::transport::{Transport, UnixOptions, UnixTransport};
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtio_defs::blk::{F_CONFIG_WCE, WRITEBACK_OFFSET};
use outboard_virtqueue::Format;
use rustix::process::{Signal, kill_process};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{open, open_with, same};
use crate::check::catalogue::Check;
use crate::check::config::{FLAG, config_body};
use crate::check::cx::{Cx, LULL};
use crate::check::proc;
use crate::check::ring::wait;
use crate::check::sample::Kind;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::Answer;

/// The checks of this part.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "config.write",
        title: "what the driver may write is written, and reads back",
        spec: "vhost-user: SET_CONFIG; VIRTIO 1.3, 5.2.4 (writeback)",
        run: write,
    },
    Check {
        id: "config.write-long-payload",
        title: "a write may come with more payload than it writes",
        spec: "in use: SPDK (the whole buffer of 256 bytes is sent)",
        run: write_long_payload,
    },
    Check {
        id: "config.write-read-only",
        title: "a write to what the driver may only read is refused, and changes nothing",
        spec: "vhost-user: SET_CONFIG (back ends must not accept it, but for migration)",
        run: write_read_only,
    },
    Check {
        id: "config.write-beyond-end",
        title: "a write beyond the configuration does no harm",
        spec: "vhost-user: SET_CONFIG",
        run: write_beyond_end,
    },
    Check {
        id: "config.change-told",
        title: "a change is told on the back channel while rings run, in the right form, and not before",
        spec: "vhost-user: BACKEND_CONFIG_CHANGE_MSG; Suspended device state",
        run: change_told,
    },
];

/// A disk on which the driver may choose the cache mode.
fn writable(cx: &mut Cx) -> Checked<(Session, u32)> {
    cx.needs(ProtocolFeatures::CONFIG | ProtocolFeatures::REPLY_ACK)?;
    if cx.kind != Kind::Blk {
        return Err(Stop::NotApplicable("no field that a driver may write is known".to_owned()));
    }
    cx.needs_feature(F_CONFIG_WCE, "CONFIG_WCE")?;
    open_with(cx, &Setup { device_features: F_CONFIG_WCE, ..Setup::new(Format::Split) })
}

fn write(cx: &mut Cx) -> Checked {
    let (mut session, _) = writable(cx)?;
    for value in [0, 1, 0, 1] {
        session.wire.set(Code::SET_CONFIG, &config_body(WRITEBACK_OFFSET, 0, &[value]), &[])?;
        let read = writeback(&session.wire.config(0, WRITEBACK_OFFSET + 1, 0)?)?;
        ensure!(read == value, "{value} was written to writeback, {read} is read");
    }
    Ok(())
}

/// That field, in a configuration from its start on.
fn writeback(config: &[u8]) -> Checked<u8> {
    let at = usize::try_from(WRITEBACK_OFFSET)?;
    config.get(at).copied().ok_or_else(|| Stop::fail("the configuration ends before writeback"))
}

fn write_long_payload(cx: &mut Cx) -> Checked {
    let (mut session, len) = writable(cx)?;
    let whole = session.wire.config(0, len, 0)?;
    for value in [0, 1] {
        let mut body = config_body(WRITEBACK_OFFSET, 0, &[value]);
        body.resize(12 + 256, 0);
        session.wire.set(Code::SET_CONFIG, &body, &[])?;
        let read = writeback(&session.wire.config(0, len, 0)?)?;
        ensure!(read == value, "{value} was written to writeback, {read} is read");
    }
    let [before, after] = [&whole[..], &session.wire.config(0, len, 0)?].map(|config| {
        let at = usize::try_from(WRITEBACK_OFFSET).unwrap_or(0);
        config.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, byte)| *byte).collect::<Vec<_>>()
    });
    ensure!(before == after, "the rest of the payload was written, too");
    Ok(())
}

fn write_read_only(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::REPLY_ACK)?;
    let (mut session, len) = open(cx)?;
    let whole = session.wire.config(0, len, 0)?;
    if cx.kind != Kind::Blk {
        return Err(Stop::NotApplicable("no field that a driver may only read is known".to_owned()));
    }
    // The capacity, and what stands for the number of queues.
    for (offset, data) in [(0, &[0xffu8; 8][..]), (34, &[9, 0])] {
        match session.wire.try_config(offset, 0, data)? {
            Answer::Nack => session.wire.barrier()?,
            Answer::Ack => {
                return Err(Stop::fail(format!("a write to {} bytes at {offset} was accepted", data.len())));
            }
            Answer::Closed => return Err(Stop::fail("closed the connection on SET_CONFIG")),
        }
    }
    same(&whole, 0, &session.wire.config(0, len, 0)?)
}

fn write_beyond_end(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::REPLY_ACK)?;
    let (mut session, len) = open(cx)?;
    let whole = session.wire.config(0, len, 0)?;
    for (offset, size) in [(len - 2, 64), (128, 4), (255, 1), (0x8000_0000, 4), (u32::MAX - 1, 4)] {
        let data = vec![0xff; size];
        for bits in [0, FLAG] {
            match session.wire.try_config(offset, bits, &data)? {
                Answer::Closed => {
                    return Err(Stop::fail(format!(
                        "closed the connection on SET_CONFIG of {size} bytes at {offset:#x}"
                    )));
                }
                Answer::Ack => {
                    cx.note(format!("a write of {size} bytes at {offset:#x} (flags {bits}) is accepted"));
                }
                Answer::Nack => {}
            }
            session.wire.barrier()?;
        }
    }
    same(&whole, 0, &session.wire.config(0, len, 0)?)
}

/// Our end of the back channel, and what comes there.
struct Channel(UnixTransport);

impl Channel {
    fn open(session: &mut Session, patience: Duration) -> Checked<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        session.wire.set(Code::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()])?;
        let options = UnixOptions {
            frame_timeout: Some(patience),
            idle_timeout: Some(patience),
            ..UnixOptions::default()
        };
        Ok(Self(UnixTransport::with_options(ours, options)))
    }

    /// Whether a change is told within this time; whatever else comes is wrong.
    fn is_told(&mut self, patience: Duration) -> Checked<bool> {
        if !wait(self.0.as_fd(), patience)? {
            return Ok(false);
        }
        let frame = self.0.receive().map_err(|error| Stop::fail(format!("on the back channel: {error}")))?;
        let Some(frame) = frame else { return Err(Stop::fail("the back channel was closed")) };
        ensure!(
            frame.request == BackendRequest::CONFIG_CHANGE_MSG.0
                && frame.flags & !flags::NEED_REPLY == flags::VERSION
                && frame.body.is_empty()
                && frame.fds.is_empty(),
            "message {} with flags {:#x} and {} bytes came on the back channel, not CONFIG_CHANGE_MSG",
            frame.request,
            frame.flags,
            frame.body.len()
        );
        Ok(true)
    }
}

fn change_told(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::CONFIG | ProtocolFeatures::BACKEND_REQ)?;
    cx.needs_command()?;
    let protocol = Setup::new(Format::Split).protocol | ProtocolFeatures::BACKEND_REQ;
    let (mut session, len) = open_with(cx, &Setup { protocol, ..Setup::new(Format::Split) })?;
    let pid = cx.process()?;
    // By agreement, SIGHUP asks a daemon to look at its host again; where it is not caught, it kills.
    if !proc::catches(pid, Signal::HUP)? {
        return Err(Stop::Skip("nothing is known that changes its configuration".to_owned()));
    }
    let mut channel = Channel::open(&mut session, cx.patience)?;
    let before = session.wire.config(0, len, 0)?;
    kill_process(pid, Signal::HUP)?;
    std::thread::sleep(LULL);
    if session.wire.barrier().is_err() {
        return Err(Stop::Skip("it ends at SIGHUP".to_owned()));
    }
    ensure!(!channel.is_told(LULL)?, "a change was told while no ring ran");
    session.add_rings()?;
    session.start_all()?;
    session.request()?;
    let changed = session.wire.config(0, len, 0)? != before;
    if !changed {
        return Err(Stop::Skip("SIGHUP does not change its configuration".to_owned()));
    }
    // Told now, or never: this front end has read it already.
    channel.is_told(LULL)?;
    let before = session.wire.config(0, len, 0)?;
    kill_process(pid, Signal::HUP)?;
    ensure!(channel.is_told(cx.patience)?, "a change was not told while rings ran");
    let after = session.wire.config(0, len, 0)?;
    ensure!(before != after, "a change was told, and the configuration is the same");
    session.request()?;
    session.stop_all()
}
