//! Frames of all lengths, out of a file, through our rings and back, into a file: each must be as it was, and in its place.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::Rig;
use super::cell::Cell;
use super::ours::Ours;
use super::testpmd::{Settings, Testpmd, unsent};
use crate::digest::mix;

/// Frames of each pair of queues.
const FRAMES: u64 = 8192;

/// Their lengths, which follow each other, and begin again.
const SHORTEST: u64 = 60;
const LONGEST: u64 = 1514;

/// How long the last frame may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// The frame's place in the file stands behind its Ethernet header.
const HEADER: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];

/// Sends all, and compares what comes back.
pub(super) fn compare(rig: &Rig<'_>, cell: &Cell) -> Result<String> {
    let rings = &cell.rings;
    let file = |way: &str, pair: u16| rig.directory.join(format!("{way}{pair}.pcap"));
    let (mut disk, pairs) = (String::from("net_pcap0"), 0..rings.pairs);
    for pair in pairs.clone() {
        std::fs::write(file("in", pair), capture((0..FRAMES).map(|number| frame(pair, number))))?;
        disk.push_str(&format!(",rx_pcap={}", file("in", pair).display()));
    }
    for pair in pairs.clone() {
        disk.push_str(&format!(",tx_pcap={}", file("out", pair).display()));
    }
    let command = rig.one(rings.pairs, &["--backend=loop".to_owned()]);
    let ours = Ours::start(command, &[rig.socket(0)], &rig.control(), &rig.log("back-end"))?;
    let ports = vec![disk, rings.port(rig, 0)];
    let settings = Settings { cpu: None, ports, mode: "io", pairs: rings.pairs, size: 64 };
    let mut testpmd = Testpmd::start(rig.workspace, &settings, &rig.log("testpmd"))?;
    for counted in ours.counted()? {
        rings.require(&counted)?;
    }
    // A full ring is waited for: the file is read faster than anything.
    testpmd.command("set fwd io retry")?;
    testpmd.command("set burst tx delay 100 retry 10000")?;
    testpmd.command("start")?;
    let begun = std::time::Instant::now();
    let all = FRAMES * u64::from(rings.pairs);
    loop {
        let counted = ours.settled()?.first().copied().unwrap_or_default();
        if counted.sent + counted.refused >= all {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "{} of {all} frames were taken in {PATIENCE:?}", counted.sent);
    }
    let said = testpmd.command("stop")?;
    let counted = ours.settled()?.first().copied().unwrap_or_default();
    let unsent = unsent(&said, 1).context("testpmd does not say what it could not send")?;
    testpmd.quit()?;
    ours.stop()?;
    ensure!(counted.refused == 0, "{} frames were refused", counted.refused);
    ensure!(counted.sent + unsent == all, "{} of {all} frames were taken", counted.sent);
    let mut returned = 0;
    for pair in pairs {
        returned += same(pair, &file("out", pair)).with_context(|| format!("pair {pair}"))?;
    }
    let lost = counted.dropped + unsent;
    ensure!(returned + lost == all, "{returned} of {all} frames came back, {lost} were counted as dropped");
    ensure!(lost * 4 < all, "{lost} of {all} frames were dropped");
    Ok(format!("{returned} frames came back as they were, {lost} were dropped"))
}

/// How many frames are in the file: each as it was, and behind those that were sent before it.
fn same(pair: u16, path: &PathBuf) -> Result<u64> {
    let bytes = std::fs::read(path)?;
    let mut rest = bytes.get(24..).context("no capture")?;
    let (mut next, mut count) = (0, 0);
    while !rest.is_empty() {
        let (head, behind) = rest.split_at_checked(16).context("a record is cut off")?;
        let length =
            |at: usize| -> Option<u32> { Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?)) };
        let (kept, whole) = length(8).zip(length(12)).context("a record is cut off")?;
        ensure!(kept == whole, "a frame of {whole} bytes was kept with {kept}");
        let (found, behind) = behind.split_at_checked(kept as usize).context("a frame is cut off")?;
        let number = found.get(HEADER.len()..HEADER.len() + 8).and_then(|bytes| bytes.try_into().ok());
        let number = u64::from_le_bytes(number.context("a frame is too short")?);
        ensure!(number >= next && number < FRAMES, "frame {number} came after frame {next}");
        ensure!(found == frame(pair, number), "frame {number} of {whole} bytes is not as it was");
        next = number + 1;
        count += 1;
        rest = behind;
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

/// The frames in the format of tcpdump, version 2.4.
fn capture(frames: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Ethernet, cut off at 64 KiB.
    for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 65535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        for word in [0, 0, length, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_of_what_was_sent_is_all_of_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_path_buf();
        let all = || (0..3).map(|number| frame(1, number));
        std::fs::write(&path, capture(all())).unwrap();
        assert_eq!(same(1, &path).unwrap(), 3);
        std::fs::write(&path, capture(all().skip(1))).unwrap();
        assert_eq!(same(1, &path).unwrap(), 2);
        assert!(same(0, &path).is_err(), "of another pair");
        let mut changed = capture(all());
        *changed.last_mut().unwrap() ^= 1;
        std::fs::write(&path, changed).unwrap();
        assert!(same(1, &path).is_err(), "a bit was changed");
        std::fs::write(&path, capture([frame(1, 2), frame(1, 1)].into_iter())).unwrap();
        assert!(same(1, &path).is_err(), "out of order");
    }
}
