//! One kind of ring and one way of packets: what both sides have counted afterwards must agree.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Rig;
use super::ours::{Counted, Ours};
use super::testpmd::{Port, Settings, Testpmd};

/// Bytes of each packet.
const SIZE: u16 = 64;

/// How many bursts of 32 packets go round.
const BURSTS: u16 = 4;

/// How often it is looked whether packets are still under way, once there is no link.
const SETTLE: Duration = Duration::from_millis(100);

/// How long they may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The feature bits that name a kind of ring (VIRTIO 1.3, 5.1.3 and 6).
const MRG_RXBUF: u64 = 1 << 15;
const MQ: u64 = 1 << 22;
const RING_PACKED: u64 = 1 << 34;
const IN_ORDER: u64 = 1 << 35;

/// A kind of ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rings {
    pub(super) packed: bool,
    pub(super) in_order: bool,
    pub(super) mergeable: bool,
    /// Pairs of them.
    pub(super) pairs: u16,
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The front end makes them, and ours discards them.
    Send,
    /// Ours makes them, and the front end discards them.
    Receive,
    /// Ours gives them back, and so does the front end.
    Loop,
    /// Ours gives them back, and each that the front end has sent is compared with what comes back.
    Bytes,
}

/// What is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    pub(super) way: Way,
    pub(super) rings: Rings,
}

impl Rings {
    /// All kinds.
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for pairs in [1, 2] {
            for packed in [false, true] {
                for in_order in [false, true] {
                    for mergeable in [false, true] {
                        all.push(Self { packed, in_order, mergeable, pairs });
                    }
                }
            }
        }
        all
    }

    /// The front end's interface with such rings on our socket `socket`, the `number`th.
    pub(super) fn port(&self, rig: &Rig<'_>, number: u16) -> String {
        format!(
            "net_virtio_user{number},path={},queues={},queue_size=256,packed_vq={},mrg_rxbuf={},in_order={}",
            rig.socket(number).display(),
            self.pairs,
            u8::from(self.packed),
            u8::from(self.mergeable),
            u8::from(self.in_order)
        )
    }

    /// That just this was agreed on.
    pub(super) fn require(&self, counted: &Counted) -> Result<()> {
        for (wanted, bit, name) in [
            (self.packed, RING_PACKED, "packed rings"),
            (self.in_order, IN_ORDER, "order"),
            (self.mergeable, MRG_RXBUF, "mergeable buffers"),
            (self.pairs > 1, MQ, "several pairs"),
        ] {
            let agreed = counted.features & bit != 0;
            ensure!(agreed == wanted, "{name}: wanted {wanted}, agreed on {agreed}");
        }
        Ok(())
    }
}

impl fmt::Display for Rings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.packed { "packed" } else { "split" })?;
        f.write_str(if self.in_order { " in-order" } else { "" })?;
        f.write_str(if self.mergeable { " mergeable" } else { "" })?;
        write!(f, " pairs={}", self.pairs)
    }
}

impl Cell {
    /// All of them.
    pub(super) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for rings in Rings::all() {
            for way in [Way::Send, Way::Receive, Way::Loop, Way::Bytes] {
                all.push(Self { way, rings });
            }
        }
        all
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::Send => "tx",
            Way::Receive => "rx",
            Way::Loop => "loop",
            Way::Bytes => "bytes",
        };
        write!(f, "{way} {}", self.rings)
    }
}

/// Lets packets go for a while, and counts; what was counted.
pub(super) fn count(rig: &Rig<'_>, cell: &Cell, time: Duration) -> Result<String> {
    let rings = &cell.rings;
    let (behind, mode, start) = match cell.way {
        Way::Send => (vec!["--backend=null".to_owned()], "txonly", "start".to_owned()),
        Way::Receive => {
            (vec!["--backend=null".to_owned(), format!("--generate={SIZE}")], "rxonly", "start".to_owned())
        }
        Way::Loop | Way::Bytes => {
            (vec!["--backend=loop".to_owned()], "io", format!("start tx_first {BURSTS}"))
        }
    };
    let command = rig.one(rings.pairs, &behind);
    let ours = Ours::start(command, &[rig.socket(0)], &rig.control(), &rig.log("back-end"))?;
    // What is in the rings when testpmd starts its interface, it throws away.
    ours.link(false)?;
    let ports = vec![rings.port(rig, 0)];
    let settings = Settings { cpu: None, ports, mode, pairs: rings.pairs, size: SIZE };
    let mut testpmd = Testpmd::start(rig.workspace, &settings, &rig.log("testpmd"))?;
    for counted in ours.counted()? {
        rings.require(&counted)?;
    }
    ours.link(true)?;
    testpmd.command(&start)?;
    std::thread::sleep(time);
    if cell.way != Way::Send {
        // What is under way comes to its end; nothing new begins.
        ours.link(false)?;
        let begun = Instant::now();
        let mut last = None;
        loop {
            std::thread::sleep(SETTLE);
            let next = testpmd.port(0)?;
            let counted = ours.counted()?.first().map_or(0, |counted| counted.received);
            if last == Some(next) && (next.received == counted || begun.elapsed() > PATIENCE) {
                break;
            }
            last = Some(next);
        }
    }
    testpmd.command("stop")?;
    let theirs = testpmd.port(0)?;
    let counted = ours.settled()?.first().copied().unwrap_or_default();
    testpmd.quit()?;
    ours.stop()?;
    let seconds = time.as_secs_f64();
    agree(cell.way, theirs, counted)?;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = theirs.sent.max(theirs.received) as f64 / seconds / 1e6;
    Ok(format!(
        "sent {}, received {} ({rate:.2} million packets a second), dropped {}",
        theirs.sent, theirs.received, counted.dropped
    ))
}

/// No packet is lost but those that were counted so.
fn agree(way: Way, theirs: Port, ours: Counted) -> Result<()> {
    let size = u64::from(SIZE);
    let taken = ours.sent + ours.unlinked;
    ensure!(ours.refused == 0, "{} packets were refused", ours.refused);
    ensure!(theirs.unbuffered == 0, "testpmd had no buffers for {} packets", theirs.unbuffered);
    ensure!(taken == theirs.sent, "{} packets were sent, but {taken} taken", theirs.sent);
    ensure!(
        ours.received == theirs.received,
        "{} packets were given, but {} received",
        ours.received,
        theirs.received
    );
    ensure!(
        ours.sent_bytes == ours.sent * size && ours.received_bytes == ours.received * size,
        "packets have other lengths than {size} bytes: {ours:?}"
    );
    ensure!(
        theirs.received_bytes == theirs.received * size,
        "packets arrived with other lengths than {size} bytes: {theirs:?}"
    );
    match way {
        Way::Send => {
            ensure!(theirs.sent > 0 && theirs.received == 0, "not the packets of this way: {theirs:?}");
        }
        Way::Receive => {
            ensure!(theirs.received > 0 && theirs.sent == 0, "not the packets of this way: {theirs:?}");
        }
        Way::Loop | Way::Bytes => {
            let given = ours.received + ours.dropped;
            ensure!(ours.sent == given, "{} packets were taken, but {given} given or dropped", ours.sent);
            // They went round.
            ensure!(ours.received > 32 * u64::from(BURSTS) * 10, "only {} packets came back", ours.received);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Port = Port { received: 0, received_bytes: 0, sent: 7, sent_bytes: 448, unbuffered: 0 };

    fn taken(sent: u64) -> Counted {
        Counted { sent, sent_bytes: sent * 64, ..Counted::default() }
    }

    #[test]
    fn agree_with_a_packet_too_few_fails() {
        agree(Way::Send, SENT, taken(7)).unwrap();
        agree(Way::Send, SENT, Counted { unlinked: 1, ..taken(6) }).unwrap();
        for wrong in [
            taken(6),
            taken(8),
            Counted { refused: 1, ..taken(7) },
            Counted { sent_bytes: 1, ..taken(7) },
            Counted { received: 1, received_bytes: 64, ..taken(7) },
        ] {
            assert!(agree(Way::Send, SENT, wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn agree_on_a_loop_counts_what_was_dropped() {
        let theirs = Port { sent: 2000, received: 1999, received_bytes: 1999 * 64, ..SENT };
        let counted = Counted { received: 1999, received_bytes: 1999 * 64, dropped: 1, ..taken(2000) };
        agree(Way::Loop, theirs, counted).unwrap();
        assert!(agree(Way::Loop, theirs, Counted { dropped: 0, ..counted }).is_err());
    }
}
