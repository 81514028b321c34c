//! Frames of all lengths, out of a pipe, through our rings and back, into a pipe: each must be as it was, and in its place.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Mode, mkfifoat};

use super::Rig;
use super::cell::Cell;
use super::ours::Ours;
use super::testpmd::{Settings, Testpmd, unsent};
use crate::digest::mix;

/// The lengths of frames, which follow each other, and begin again.
const SHORTEST: u64 = 60;
const LONGEST: u64 = 1514;

/// How long the last frames may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// For how long testpmd tries to send a frame, and a bit.
const RETRIES: Duration = Duration::from_secs(2);

/// The frame's number stands behind its Ethernet header.
const HEADER: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];

/// Sends frames for a while, and compares what comes back.
pub(super) fn compare(rig: &Rig<'_>, cell: &Cell, time: Duration) -> Result<String> {
    let rings = &cell.rings;
    let enough = Arc::new(AtomicBool::new(false));
    let (mut disk, mut sent, mut came) = (String::from("net_pcap0"), Vec::new(), Vec::new());
    for pair in 0..rings.pairs {
        let (path, enough) = (pipe(rig, "in", pair)?, Arc::clone(&enough));
        disk.push_str(&format!(",rx_pcap={}", path.display()));
        sent.push(apart(move || write_frames(pair, File::create(&path)?, &enough)));
    }
    for pair in 0..rings.pairs {
        let path = pipe(rig, "out", pair)?;
        disk.push_str(&format!(",tx_pcap={}", path.display()));
        came.push(apart(move || {
            let mut stream = BufReader::new(File::open(&path)?);
            let count = same(pair, &mut stream);
            // Else testpmd would wait for room.
            io::copy(&mut stream, &mut io::sink())?;
            count
        }));
    }
    let command = rig.one(rings.pairs, &["--backend=loop".to_owned()]);
    let ours = Ours::start(command, &[rig.socket(0)], &rig.control(), &rig.log("back-end"))?;
    let ports = vec![disk, rings.port(rig, 0)];
    let settings = Settings { cpu: None, ports, mode: "io", pairs: rings.pairs, size: 64 };
    let mut testpmd = Testpmd::start(rig.workspace, &settings, &rig.log("testpmd"))?;
    for counted in ours.counted()? {
        rings.require(&counted)?;
    }
    // A full ring is waited for: the pipe is read faster than anything.
    testpmd.command("set fwd io retry")?;
    testpmd.command("set burst tx delay 100 retry 10000")?;
    testpmd.command("start")?;
    std::thread::sleep(time);
    enough.store(true, Ordering::Relaxed);
    let all = sum(&sent)?;
    let mut begun = Instant::now();
    let mut last = None;
    loop {
        let counted = ours.settled()?.first().copied().unwrap_or_default();
        let taken_back = testpmd.port(0)?.sent;
        if counted.sent + counted.refused >= all && taken_back == counted.received {
            break;
        }
        if last.replace((counted.sent, taken_back)) != Some((counted.sent, taken_back)) {
            begun = Instant::now();
        }
        if begun.elapsed() > RETRIES {
            break;
        }
    }
    let said = testpmd.command("stop")?;
    let counted = ours.settled()?.first().copied().unwrap_or_default();
    let unsent = unsent(&said, 1).context("testpmd does not say what it could not send")?;
    testpmd.quit()?;
    ours.stop()?;
    let returned = sum(&came)?;
    ensure!(counted.refused == 0, "{} frames were refused", counted.refused);
    ensure!(counted.sent + unsent == all, "{} of {all} frames were taken", counted.sent);
    let lost = counted.dropped + unsent;
    ensure!(returned + lost == all, "{returned} of {all} frames came back, {lost} were counted as dropped");
    ensure!(lost * 4 < all, "{lost} of {all} frames were dropped");
    Ok(format!("{returned} frames came back as they were, {lost} were dropped"))
}

/// A new pipe with a name.
fn pipe(rig: &Rig<'_>, way: &str, pair: u16) -> Result<PathBuf> {
    let path = rig.directory.join(format!("{way}{pair}.pcap"));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
    Ok(path)
}

/// Does something on a thread of its own, which nobody waits for if testpmd never comes.
fn apart(act: impl FnOnce() -> Result<u64> + Send + 'static) -> Receiver<Result<u64>> {
    let (done, outcome) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(act());
    });
    outcome
}

/// What came of each pair, together.
fn sum(outcomes: &[Receiver<Result<u64>>]) -> Result<u64> {
    let mut sum = 0;
    for (pair, outcome) in outcomes.iter().enumerate() {
        let outcome = outcome.recv_timeout(PATIENCE).context("a pipe does not come to its end")?;
        sum += outcome.with_context(|| format!("pair {pair}"))?;
    }
    Ok(sum)
}

/// Writes frames until there are enough; how many.
fn write_frames(pair: u16, to: impl Write, enough: &AtomicBool) -> Result<u64> {
    let mut to = BufWriter::with_capacity(1 << 16, to);
    to.write_all(&START)?;
    let mut number = 0;
    while !enough.load(Ordering::Relaxed) {
        write_frame(&mut to, &frame(pair, number))?;
        number += 1;
    }
    to.flush()?;
    Ok(number)
}

/// How many frames there are: each as it was, and behind those that were sent before it.
fn same(pair: u16, from: &mut impl Read) -> Result<u64> {
    from.read_exact(&mut START.clone()).context("no capture")?;
    let (mut next, mut count) = (0, 0);
    let (mut head, mut found) = ([0; 16], Vec::new());
    while from.by_ref().take(1).read(&mut head)? > 0 {
        from.read_exact(head.get_mut(1..).unwrap_or_default()).context("a record is cut off")?;
        let length =
            |at: usize| -> Option<u32> { Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?)) };
        let (kept, whole) = length(8).zip(length(12)).context("a record is cut off")?;
        ensure!(kept == whole, "a frame of {whole} bytes was kept with {kept}");
        found.resize(kept as usize, 0);
        from.read_exact(&mut found).context("a frame is cut off")?;
        let number = found.get(HEADER.len()..HEADER.len() + 8).and_then(|bytes| bytes.try_into().ok());
        let number = u64::from_le_bytes(number.context("a frame is too short")?);
        ensure!(number >= next, "frame {number} came after frame {next}");
        ensure!(found == frame(pair, number), "frame {number} of {whole} bytes is not as it was");
        next = number + 1;
        count += 1;
    }
    Ok(count)
}

/// The frame with this number.
fn frame(pair: u16, number: u64) -> Vec<u8> {
    let length = SHORTEST + number % (LONGEST - SHORTEST + 1);
    let mut state = mix(number << 16 | u64::from(pair));
    let mut frame = HEADER.to_vec();
    frame.extend(number.to_le_bytes());
    while (frame.len() as u64) < length {
        state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
        frame.extend(state.to_le_bytes());
    }
    frame.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    frame
}

/// What a capture begins with: the format of tcpdump, version 2.4, Ethernet, cut off at 64 KiB.
const START: [u8; 24] =
    [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];

fn write_frame(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    for word in [0, 0, length, length] {
        to.write_all(&word.to_le_bytes())?;
    }
    to.write_all(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(frames: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
        let mut bytes = START.to_vec();
        frames.into_iter().for_each(|frame| write_frame(&mut bytes, &frame).unwrap());
        bytes
    }

    #[test]
    fn same_of_what_was_sent_is_all_of_it() {
        let all = || (0..3).map(|number| frame(1, number));
        let count = |pair, capture: Vec<u8>| same(pair, &mut capture.as_slice());
        assert_eq!(count(1, capture(all())).unwrap(), 3);
        assert_eq!(count(1, capture(all().skip(1))).unwrap(), 2);
        assert!(count(0, capture(all())).is_err(), "of another pair");
        let mut changed = capture(all());
        *changed.last_mut().unwrap() ^= 1;
        assert!(count(1, changed).is_err(), "a bit was changed");
        assert!(count(1, capture([frame(1, 2), frame(1, 1)])).is_err(), "out of order");
        assert!(count(1, capture([frame(1, 1), frame(1, 1)])).is_err(), "twice");
        let cut = capture(all());
        assert!(count(1, cut.get(..cut.len() - 1).unwrap().to_vec()).is_err(), "cut off");
    }

    /// Has enough after a while.
    struct Sink<'a>(Vec<u8>, &'a AtomicBool);

    impl Write for Sink<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.store(self.0.len() > 1 << 20, Ordering::Relaxed);
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn frames_that_were_written_are_found_the_same() {
        let enough = AtomicBool::new(false);
        let mut sink = Sink(Vec::new(), &enough);
        let written = write_frames(1, &mut sink, &enough).unwrap();
        assert!(written > 1000);
        assert_eq!(same(1, &mut sink.0.as_slice()).unwrap(), written);
    }
}
