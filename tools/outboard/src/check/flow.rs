//! Requests by the hundred on a running ring.

use std::collections::HashMap;
use std::time::Instant;

use super::ring::Placed;
use super::sample::Sample;
use super::session::Session;
use super::verdict::{Checked, Stop, ensure};

impl Session {
    /// Makes `count` requests on the last ring, up to `depth` of them at once, and holds each answer against what it
    /// must be.
    pub(crate) fn rounds(&mut self, sample: &Sample, count: u64, depth: usize) -> Checked {
        self.rounds_until(sample, count, depth, None).map(drop)
    }

    /// As [`rounds`](Self::rounds); stops making them at `deadline`. Returns how many were made.
    pub(crate) fn rounds_until(
        &mut self,
        sample: &Sample,
        count: u64,
        depth: usize,
        deadline: Option<Instant>,
    ) -> Checked<u64> {
        let Self { memory, rings, patience, .. } = self;
        let ring = rings.last_mut().ok_or_else(|| Stop::Skip("our own side: no ring".to_owned()))?;
        let mut out: HashMap<u64, Placed> = HashMap::new();
        let (mut made, mut done) = (0, 0);
        while done < count {
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if late && out.is_empty() {
                break;
            }
            let before = made;
            while !late && made < count && out.len() < depth && ring.has_room(sample) {
                out.insert(made, ring.place(memory, sample, made)?);
                made += 1;
            }
            if made != before {
                ring.publish()?;
            }
            let mut next = Some(ring.returned(*patience).map_err(|stop| stop.when(after(done)))?);
            while let Some((token, len)) = next {
                let placed = out.remove(&token);
                let placed =
                    placed.ok_or_else(|| Stop::fail(format!("request {token} was returned twice")))?;
                ring.verify(memory, sample, placed, len).map_err(|stop| stop.when(after(done)))?;
                done += 1;
                next = ring.queue.poll_used()?;
            }
        }
        ensure!(ring.queue.outstanding() == 0, "{} requests are still out", ring.queue.outstanding());
        Ok(done)
    }
}

fn after(done: u64) -> String {
    format!("after {done} requests")
}
