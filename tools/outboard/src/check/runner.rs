//! Runs checks one after another, and looks after each whether the back end still lives.

use std::time::{Duration, Instant};

use outboard_vhost_user::FrontendRequest as Code;

use super::catalogue::Check;
use super::cx::Cx;
use super::verdict::{Checked, Stop, Verdict};

/// What came of one check.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) check: &'static Check,
    pub(crate) verdict: Verdict,
    /// What is worth telling beside it.
    pub(crate) notes: Vec<String>,
    pub(crate) took: Duration,
}

/// Runs one check.
pub(crate) fn run(cx: &mut Cx, check: &'static Check) -> Outcome {
    let began = Instant::now();
    // What died before this check is not its fault.
    let verdict = match cx.target.start() {
        Err(error) => Verdict::Skip(format!("the back end does not start: {error:#}")),
        Ok(()) if cx.is_gone() => Verdict::Skip("the back end is gone, and not ours to start".to_owned()),
        Ok(()) => {
            let came = (check.run)(cx);
            let alive = alive(cx);
            match (came, alive) {
                (Ok(()), Ok(())) => Verdict::Pass,
                (Ok(()) | Err(Stop::Skip(_) | Stop::NotApplicable(_)), Err(dead)) => {
                    dead.when("afterwards").into()
                }
                (Err(Stop::Fail(what)), Err(Stop::Fail(dead))) => {
                    Verdict::Fail(format!("{what}; and afterwards: {dead}"))
                }
                (Err(stop), _) => stop.into(),
            }
        }
    };
    Outcome { check, verdict, notes: cx.take_notes(), took: began.elapsed() }
}

/// Whether the back end survived: it may end by itself with its connection, but only well; else it answers a new
/// front end.
fn alive(cx: &mut Cx) -> Checked {
    let asked = |cx: &mut Cx| cx.wire().and_then(|mut wire| wire.ask_u64(Code::GET_FEATURES).map(drop));
    // A connection may fall victim to the end of the one before it: `lifecycle.quick-connects` judges that.
    let came = match asked(cx) {
        Err(_) if lives(cx)? => asked(cx),
        came => came,
    };
    if came.is_err() {
        cx.missed = true;
    }
    if came.is_err()
        && let Some(back_end) = cx.target.take_back_end()
    {
        // The next check gets another one.
        back_end.kill()?;
    }
    came
}

/// Whether there is a process of ours, and it has not ended.
fn lives(cx: &mut Cx) -> Checked<bool> {
    Ok(match cx.target.back_end() {
        Some(back_end) => back_end.ended()?.is_none(),
        None => false,
    })
}
