//! The configuration space: read in every way that front ends read it, and written.

use outboard_vhost_user::ProtocolFeatures;
use outboard_virtqueue::Format;

use crate::check::catalogue::Check;
use crate::check::config::is_refusal;
use crate::check::cx::Cx;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

mod read;
mod write;

/// The checks of this group, part by part.
pub(super) const READ: &[Check] = read::CHECKS;
/// As [`READ`].
pub(super) const WRITE: &[Check] = write::CHECKS;

/// As much of its configuration as every front end reads; not applicable where the device has none.
fn known_len(cx: &Cx, session: &mut Session) -> Checked<u32> {
    let known = cx.kind.config_len();
    if known != 0 {
        return Ok(known);
    }
    let shown = session.wire.ask_config(0, 8, 0)?;
    if is_refusal(&shown) {
        return Err(Stop::NotApplicable("the device shows no configuration".to_owned()));
    }
    Ok(8)
}

/// Features are agreed on and memory is shared; the device has so many bytes of configuration at least.
fn open(cx: &mut Cx) -> Checked<(Session, u32)> {
    open_with(cx, &Setup::new(Format::Split))
}

fn open_with(cx: &mut Cx, setup: &Setup) -> Checked<(Session, u32)> {
    cx.needs(ProtocolFeatures::CONFIG)?;
    let mut session = Session::open(cx, setup)?;
    let len = known_len(cx, &mut session)?;
    Ok((session, len))
}

/// A window as part of what was read before.
fn same(whole: &[u8], offset: u32, window: &[u8]) -> Checked {
    let from = usize::try_from(offset)?;
    let was = whole.get(from..from + window.len()).unwrap_or_default();
    ensure!(
        was == window,
        "{} bytes at {offset} are {window:02x?}, and {was:02x?} when read with others",
        window.len()
    );
    Ok(())
}
