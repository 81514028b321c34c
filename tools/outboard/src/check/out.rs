//! Requests that are out on a ring, each known by its token, until each has come back once and right.

use super::cx::{Cx, LULL};
use super::ring::Placed;
use super::sample::Sample;
use super::session::Session;
use super::verdict::{Checked, Stop, ensure};

/// Requests that are out on the last ring of a session.
pub(crate) struct Out {
    sample: Sample,
    placed: Vec<Option<Placed>>,
}

impl Out {
    /// None yet.
    pub(crate) fn new(cx: &Cx) -> Checked<Self> {
        Ok(Self { sample: cx.sample()?, placed: Vec::new() })
    }

    /// Makes requests, as many as there is room for, and up to `count`; does not show them.
    pub(crate) fn add(&mut self, session: &mut Session, count: usize) -> Checked {
        let Session { memory, rings, .. } = session;
        let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        for _ in 0..count {
            if !ring.has_room(&self.sample) {
                break;
            }
            let token = u64::try_from(self.placed.len())?;
            self.placed.push(Some(ring.place(memory, &self.sample, token)?));
        }
        Ok(())
    }

    /// What each of them is.
    pub(crate) fn sample(&self) -> &Sample {
        &self.sample
    }

    /// How many were made.
    pub(crate) fn made(&self) -> usize {
        self.placed.len()
    }

    /// How many are out.
    pub(crate) fn left(&self) -> usize {
        self.placed.iter().flatten().count()
    }

    /// Takes what was returned, as it is now.
    pub(crate) fn collect(&mut self, session: &mut Session) -> Checked {
        let Session { memory, rings, .. } = session;
        let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        while let Some((token, len)) = ring.queue.poll_used()? {
            let placed = self.placed.get_mut(usize::try_from(token)?).and_then(Option::take);
            let placed = placed.ok_or_else(|| Stop::fail(format!("request {token} was returned twice")))?;
            ring.verify(memory, &self.sample, placed, len)?;
        }
        Ok(())
    }

    /// Takes what was returned by a predecessor: it never went through a device, so the answers are not looked at.
    pub(crate) fn forget_returned(&mut self, session: &mut Session) -> Checked {
        while let Some((token, _)) = session.sample_ring()?.queue.poll_used()? {
            self.placed.get_mut(usize::try_from(token)?).and_then(Option::take);
        }
        Ok(())
    }

    /// Waits until all are returned.
    pub(crate) fn finish(&mut self, cx: &Cx, session: &mut Session) -> Checked {
        let all = cx.eventually(|| {
            self.collect(session)?;
            Ok(self.left() == 0)
        })?;
        let lost: Vec<usize> =
            (0..).zip(&self.placed).filter(|(_, out)| out.is_some()).map(|(nth, _)| nth).collect();
        ensure!(all, "of {} requests, these were lost: {lost:?}", self.made());
        Ok(())
    }

    /// As [`finish`](Self::finish), and waits a little longer for what may come twice.
    pub(crate) fn finish_once(&mut self, cx: &Cx, session: &mut Session) -> Checked {
        self.finish(cx, session)?;
        session.wire.barrier()?;
        std::thread::sleep(LULL / 4);
        self.collect(session)
    }
}
