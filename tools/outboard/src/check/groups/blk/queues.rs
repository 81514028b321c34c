//! Several queues, and several sessions.

use outboard_virtio_defs::blk::{F_FLUSH, F_MQ, S_OK, T_IN};
use outboard_virtqueue::Format;
use rustix::process::{Signal, kill_process};

use super::{Disk, config_of, header, is_blk, pattern, setup};
use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::proc;
use crate::check::ring::{Placed, Ring};
use crate::check::sample::Sample;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "blk.queues-at-once",
        title: "requests for the same sectors are out on all queues at once, and what one writes all read",
        spec: "VIRTIO 1.3, 5.2.2 and 5.2.6",
        run: queues_at_once,
    },
    Check {
        id: "blk.next-session",
        title: "what was written in one session is read in the next, flushed or not",
        spec: "VIRTIO 1.3, 5.2.6.2; in use: guests that reboot",
        run: next_session,
    },
    Check {
        id: "blk.growth",
        title: "a disk that has grown shows its new capacity, and all of it can be read, in the same session",
        spec: "VIRTIO 1.3, 5.2.6.2 (capacity during operation)",
        run: growth,
    },
];

/// Reads on each queue.
const READS: u64 = 4;

fn queues_at_once(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_MQ, "MQ")?;
    cx.each_format(|cx, format| {
        let setup = Setup { size: 16, ..setup(format) };
        let mut disk = Disk::with(cx, &setup)?;
        let block = disk.block();
        let mut expected = Vec::new();
        for nth in 0..READS {
            expected.push(disk.read(nth * disk.block_sectors(), block)?);
        }
        let queues = disk.start_queues(64)?;
        let reads: Vec<Sample> = (0..READS)
            .map(|nth| Sample {
                queue: 0,
                readable: vec![header(T_IN, nth * disk.block_sectors())],
                writable: vec![u32::try_from(block).unwrap_or(0), 1],
                verify: |_, written| {
                    if written.last() == Some(&0) { Ok(()) } else { Err("no success".into()) }
                },
            })
            .collect();
        all_out(&mut disk.session, &reads, &expected)?;
        if disk.may_write(cx).is_err() {
            return Ok(());
        }
        disk.with_blocks(0, 1, |disk| {
            for queue in 0..queues {
                let data = pattern(1 + queue as u64, block);
                disk.write_on(queue, 0, &data)?;
                let other = (queue + 1) % queues;
                let read = disk.read_on(other, 0, block)?;
                ensure!(read == data, "what queue {queue} wrote is not what queue {other} reads");
            }
            Ok(())
        })
    })
}

/// Makes all these requests on each ring before the first is waited for.
fn all_out(session: &mut Session, reads: &[Sample], expected: &[Vec<u8>]) -> Checked {
    let patience = session.patience;
    let Session { memory, rings, .. } = session;
    let mut out: Vec<Vec<Option<Placed>>> = Vec::new();
    for ring in rings.iter_mut() {
        let mut placed = Vec::new();
        for (token, read) in (0..).zip(reads) {
            placed.push(Some(ring.place(memory, read, token)?));
        }
        out.push(placed);
    }
    rings.iter_mut().try_for_each(Ring::publish)?;
    for (ring, mut placed) in rings.iter_mut().zip(out) {
        for _ in reads {
            let (token, len) = ring.returned(patience)?;
            let at = usize::try_from(token)?;
            let one = placed.get_mut(at).and_then(Option::take);
            let one = one.ok_or_else(|| Stop::fail("a request was returned twice"))?;
            let read = reads.get(at).ok_or_else(|| Stop::fail("a request that was not made was returned"))?;
            let mut data = ring.verify(memory, read, one, len)?;
            data.pop();
            ensure!(expected.get(at) == Some(&data), "queue {}: block {at} is another one", ring.index);
        }
    }
    Ok(())
}

fn next_session(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.each_format(|cx, format| {
        let mut disk = Disk::open(cx, format)?;
        disk.may_write(cx)?;
        let (block, sectors) = (disk.block(), disk.block_sectors());
        let before = disk.read(0, 2 * block)?;
        let data = pattern(5, 2 * block);
        let (first, second) = data.split_at(block);
        disk.write(0, first)?;
        if disk.offers(F_FLUSH) {
            disk.flush()?;
        }
        disk.write(sectors, second)?;
        // Some serve one front end at a time.
        drop(disk);
        let mut disk = Disk::open(cx, format)?;
        let now = disk.read(0, 2 * block)?;
        disk.write(0, &before)?;
        ensure!(now.starts_with(first), "what was written and flushed is gone");
        ensure!(now.ends_with(second), "what was written is gone");
        Ok(())
    })
}

fn growth(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_command()?;
    let mut disk = Disk::open(cx, Format::Split)?;
    let (old, block, sectors) = (disk.capacity(), disk.block(), disk.block_sectors());
    let first = disk.read(0, block)?;
    let pid = cx.process()?;
    // By agreement, SIGHUP asks a daemon to look at its host again; where it is not caught, it kills.
    if !proc::catches(pid, Signal::HUP)? {
        return Err(Stop::Skip("nothing is known that changes its capacity".to_owned()));
    }
    kill_process(pid, Signal::HUP)?;
    std::thread::sleep(LULL);
    if disk.session.wire.barrier().is_err() {
        return Err(Stop::Skip("it ends at SIGHUP".to_owned()));
    }
    disk.config = config_of(&mut disk.session)?;
    let new = disk.capacity();
    if new <= old {
        return Err(Stop::Skip("SIGHUP does not make the disk grow".to_owned()));
    }
    for at in [old / sectors * sectors, new / sectors * sectors - sectors] {
        disk.read(at, block).map_err(|stop| stop.when(format_args!("grown from {old} to {new} sectors")))?;
    }
    let behind = disk.ask(T_IN, new, &[], &[u32::try_from(block)?])?;
    ensure!(behind.status != S_OK, "the sector behind the new end can be read");
    ensure!(disk.read(0, block)? == first, "the first block has changed");
    Ok(())
}
