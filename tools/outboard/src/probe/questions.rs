//! The questions: what any front end may ask at any time, and afterwards, if wanted, what a back end may refuse.
//! Nothing here writes to the device, shares memory with it, or starts a ring.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use outboard_frontend::PROTOCOL_FEATURES;
use outboard_vhost_user::payload::Inflight as InflightPayload;
use outboard_vhost_user::{FrontendRequest, ProtocolFeatures, Reply, Request};
use outboard_virtio_defs::DeviceId;
use outboard_virtio_defs::config_fields::config_space;
use outboard_virtio_defs::features::{
    VHOST_F_LOG_ALL, VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_ACCESS_PLATFORM,
};

use super::dialogue::{Dialogue, Trouble};
use super::findings::{Inflight, Longest, Program, SharedMemory};
use crate::peer;
use crate::target::Target;

/// What may be agreed to without anything to be done about it: what this project's front end does, and the shared
/// memory regions, which are asked for only.
const AGREEABLE: ProtocolFeatures = ProtocolFeatures(PROTOCOL_FEATURES.0 | ProtocolFeatures::SHMEM.0);
/// The most configuration that a message carries with QEMU, DPDK and SPDK, in bytes.
const WINDOW: u32 = 256;
/// Where the search for the end of a configuration space ends, in bytes.
const FAR: u32 = 4096;
/// QEMU's usual ring length, for the size of the in-flight buffer.
const USUAL: u16 = 128;
/// More queues than this are not tried one by one.
const MANY: u32 = 64;
/// The longest ring that there can be (VIRTIO 1.3, 2.7).
const LONGEST: u32 = 32768;

/// How to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// How long an answer may take.
    pub(super) timeout: Duration,
    /// How long everything on one connection may take.
    pub(super) whole: Duration,
}

/// The answers.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) program: Option<Program>,
    pub(super) features: Option<u64>,
    pub(super) protocol: Option<ProtocolFeatures>,
    pub(super) queues: Option<u64>,
    /// The number of queues was found by trial.
    pub(super) tried: bool,
    pub(super) longest: Vec<Longest>,
    pub(super) memory_slots: Option<u64>,
    pub(super) config: Option<Space>,
    pub(super) shared_memory: Option<Vec<SharedMemory>>,
    pub(super) inflight: Option<Inflight>,
    pub(super) back_channel: Option<bool>,
    pub(super) status: Option<u64>,
    pub(super) notes: Vec<String>,
}

/// A configuration space as it was read.
#[derive(Debug, Default)]
pub(super) struct Space {
    pub(super) bytes: Vec<u8>,
    /// More is refused. Otherwise the zeroes at the end may be no part of it.
    pub(super) exact: bool,
    /// What is read at once, from the start, is at most this many bytes.
    pub(super) at_once: usize,
}

impl Space {
    /// Without the zeroes at the end, where these may be no part of it.
    pub(super) fn known(&self) -> &[u8] {
        let zeroes = self.bytes.iter().rev().take_while(|byte| **byte == 0).count();
        let len = if self.exact { self.bytes.len() } else { self.bytes.len().saturating_sub(zeroes) };
        self.bytes.get(..len).unwrap_or_default()
    }
}

impl Answers {
    /// Connects and puts every question that may be asked of any back end. What came before a [`Trouble`] is kept.
    pub(super) fn ask(&mut self, target: &mut Target, manner: Manner) -> Result<(), Trouble> {
        let mut dialogue = self.greet(target, manner)?;
        let agreed = dialogue.session.protocol();
        if agreed.contains(ProtocolFeatures::MQ) {
            self.queues = Some(dialogue.ask_number(Request::GetQueueNum)?);
        }
        if agreed.contains(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
            self.memory_slots = Some(dialogue.ask_number(Request::GetMaxMemSlots)?);
        }
        if agreed.contains(ProtocolFeatures::SHMEM) {
            self.shared_memory(&mut dialogue)?;
        }
        if agreed.contains(ProtocolFeatures::STATUS) {
            self.status = Some(dialogue.ask_number(Request::GetStatus)?);
        }
        if agreed.contains(ProtocolFeatures::CONFIG) {
            self.config = read_config(&mut dialogue, &mut self.notes)?;
        }
        self.set_features(&mut dialogue)?;
        if agreed.contains(ProtocolFeatures::INFLIGHT_SHMFD) {
            self.inflight(&mut dialogue)?;
        }
        if agreed.contains(ProtocolFeatures::BACKEND_REQ) {
            self.back_channel(&mut dialogue)?;
        }
        // A back end without acknowledgements has had no chance yet to say that something was wrong.
        dialogue.ask_number(Request::GetFeatures).map(drop)
    }

    /// Finds out by trial what no message asks for, over connections of its own: some back ends answer a size that
    /// they do not take by closing the connection, or end.
    pub(super) fn try_out(&mut self, target: &mut Target, manner: Manner) -> Result<(), Trouble> {
        if self.queues.is_none() {
            self.count_queues(target, manner)?;
        }
        let count = u32::try_from(self.queues.unwrap_or(1)).unwrap_or(u32::MAX);
        if count > MANY {
            self.notes.push(format!("the longest ring was looked for in the first {MANY} queues only"));
        }
        let mut dialogue = self.greet(target, manner)?;
        if !dialogue.session.protocol().contains(ProtocolFeatures::REPLY_ACK) {
            self.notes.push(
                "the longest rings cannot be found out: without REPLY_ACK nothing is refused".to_owned(),
            );
            return Ok(());
        }
        self.set_features(&mut dialogue)?;
        let mut fresh = true;
        let mut ends = false;
        for queue in 0..count.min(MANY) {
            let mut found = longest(&mut dialogue, queue)?;
            if found == (0, true) && !fresh {
                // It was the refusal before over which the connection ended.
                dialogue = self.greet(target, manner)?;
                self.set_features(&mut dialogue)?;
                ends = true;
                found = longest(&mut dialogue, queue)?;
            }
            let (entries, closed) = found;
            self.longest.push(Longest { queue, entries });
            fresh = closed;
            ends |= closed;
            if closed && queue + 1 < count.min(MANY) {
                dialogue = self.greet(target, manner)?;
                self.set_features(&mut dialogue)?;
            }
        }
        if ends {
            self.notes.push("it ends the connection over a ring that is too long".to_owned());
        }
        Ok(())
    }

    /// What the driver of an input device asks first: its name (VIRTIO 1.3, 5.8.4). Writes the selector, so this is
    /// for back ends of which the user says that they are input devices.
    pub(super) fn input_name(&mut self, target: &mut Target, manner: Manner) -> Result<(), Trouble> {
        /// VIRTIO_INPUT_CFG_ID_NAME.
        const ID_NAME: u8 = 1;
        const LEN: u32 = 136;
        let mut dialogue = self.greet(target, manner)?;
        let mut select = vec![0; LEN as usize];
        if let Some(first) = select.first_mut() {
            *first = ID_NAME;
        }
        dialogue.ask(Request::SetConfig { offset: 0, flags: 0, data: select })?;
        if let Reply::Config { data, .. } =
            dialogue.ask(Request::GetConfig { offset: 0, size: LEN, flags: 0 })?
        {
            self.config = Some(Space { at_once: data.len(), bytes: data, exact: true });
        }
        Ok(())
    }

    /// Connects and negotiates. What has served a front end before may be about to end, or to make its socket anew,
    /// and takes connections meanwhile that it never serves.
    fn greet(&mut self, target: &mut Target, manner: Manner) -> Result<Dialogue, Trouble> {
        let deadline = Instant::now() + manner.timeout;
        let is_first = self.features.is_none();
        loop {
            match self.greet_once(target, manner) {
                Err(trouble) if !is_first && trouble.is_absence() && Instant::now() < deadline => {
                    std::thread::sleep(peer::LOOK);
                }
                other => return other,
            }
        }
    }

    fn greet_once(&mut self, target: &mut Target, manner: Manner) -> Result<Dialogue, Trouble> {
        // One that is ours and ended with its front end.
        target.start().map_err(|error| Trouble::Host(io::Error::other(format!("{error:#}"))))?;
        let socket = peer::connect(target.socket(), manner.timeout).map_err(Trouble::Connect)?;
        if self.program.is_none() {
            self.program = program(&socket);
        }
        let mut dialogue = Dialogue::new(socket, manner.timeout, manner.whole);
        dialogue.ask(Request::SetOwner)?;
        let features = dialogue.ask_number(Request::GetFeatures)?;
        self.features = Some(features);
        if features & VHOST_USER_F_PROTOCOL_FEATURES == 0 {
            return Ok(dialogue);
        }
        let protocol = ProtocolFeatures(dialogue.ask_number(Request::GetProtocolFeatures)?);
        self.protocol = Some(protocol);
        dialogue.ask(Request::SetProtocolFeatures((protocol & AGREEABLE).effective().0))?;
        Ok(dialogue)
    }

    fn set_features(&mut self, dialogue: &mut Dialogue) -> Result<(), Trouble> {
        // No address is to be translated, nor any write to be logged.
        let unwanted = VHOST_F_LOG_ALL | VIRTIO_F_ACCESS_PLATFORM;
        let features = self.features.unwrap_or(0) & !unwanted;
        match dialogue.ask(Request::SetFeatures(features)) {
            Err(Trouble::Refused(refusal)) => {
                self.notes.push(format!(
                    "the features that it offers, but for LOG_ALL and ACCESS_PLATFORM: {refusal}"
                ));
                Ok(())
            }
            other => other.map(drop),
        }
    }

    fn shared_memory(&mut self, dialogue: &mut Dialogue) -> Result<(), Trouble> {
        let Reply::Shmem(config) = dialogue.ask(Request::GetShmemConfig)? else {
            let reason = "it is no shared memory configuration".to_owned();
            return Err(Trouble::Nonsense { asked: FrontendRequest::GET_SHMEM_CONFIG, reason });
        };
        let sizes = config.sizes.iter().enumerate().filter(|(_, bytes)| **bytes != 0);
        let regions: Vec<_> = sizes.map(|(id, &bytes)| SharedMemory { id, bytes }).collect();
        if regions.len() != config.count as usize {
            self.notes.push(format!(
                "it announces {} shared memory regions, and gives the size of {}",
                config.count,
                regions.len()
            ));
        }
        self.shared_memory = Some(regions);
        Ok(())
    }

    fn inflight(&mut self, dialogue: &mut Dialogue) -> Result<(), Trouble> {
        let queues = u16::try_from(self.queues.unwrap_or(1)).unwrap_or(u16::MAX).clamp(1, 1024);
        let wanted = InflightPayload::new(0, 0, queues, USUAL);
        match dialogue.ask(Request::GetInflightFd(wanted))? {
            Reply::Inflight(buffer, fd) => {
                if buffer.mmap_size != 0 && fd.is_none() {
                    self.notes.push("it describes an in-flight buffer, and sends none".to_owned());
                }
                let bytes = buffer.mmap_size;
                self.inflight = Some(Inflight { queues, queue_size: USUAL, bytes });
                Ok(())
            }
            _ => {
                let reason = "it is no in-flight buffer".to_owned();
                Err(Trouble::Nonsense { asked: FrontendRequest::GET_INFLIGHT_FD, reason })
            }
        }
    }

    fn back_channel(&mut self, dialogue: &mut Dialogue) -> Result<(), Trouble> {
        let (_ours, theirs) = UnixStream::pair()?;
        match dialogue.ask(Request::SetBackendReqFd(theirs.into())) {
            Ok(_) => self.back_channel = Some(true),
            Err(Trouble::Refused(_)) => self.back_channel = Some(false),
            Err(trouble) => return Err(trouble),
        }
        Ok(())
    }

    /// Asks each ring for its position until the back end does not answer.
    fn count_queues(&mut self, target: &mut Target, manner: Manner) -> Result<(), Trouble> {
        let mut dialogue = self.greet(target, manner)?;
        let mut count = 0;
        while count < MANY {
            match dialogue.ask(Request::GetVringBase { index: count }) {
                Ok(_) => count += 1,
                Err(Trouble::Slow { asked, after }) => return Err(Trouble::Slow { asked, after }),
                Err(_) => break,
            }
        }
        if count < MANY {
            self.queues = Some(count.into());
            self.tried = true;
        } else {
            self.notes.push("it does not tell how many queues there are, and answers for any".to_owned());
        }
        Ok(())
    }
}

/// The longest ring that a queue takes, and whether the connection ended over a longer one. From below, so that one
/// refusal is all that is provoked.
fn longest(dialogue: &mut Dialogue, queue: u32) -> Result<(u32, bool), Trouble> {
    let mut entries = 0;
    let mut next = 1;
    while next <= LONGEST {
        match dialogue.ask(Request::SetVringNum { index: queue, num: next }) {
            Ok(_) => entries = next,
            Err(Trouble::Refused(_)) => break,
            Err(Trouble::Closed { .. }) => return Ok((entries, true)),
            Err(trouble) => return Err(trouble),
        }
        next *= 2;
    }
    Ok((entries, false))
}

/// Reads the configuration space, as far as there is something in it; `None` where there is none.
fn read_config(dialogue: &mut Dialogue, notes: &mut Vec<String>) -> Result<Option<Space>, Trouble> {
    if let Some(mut bytes) = window(dialogue, 0, WINDOW, notes)? {
        // Some fill up with zeroes, others refuse what they do not have.
        let mut offset = WINDOW;
        while !bytes.ends_with(&[0]) && offset < FAR {
            match window(dialogue, offset, WINDOW, notes)? {
                Some(more) => bytes.extend(more),
                None => {
                    bytes.extend(longest_window(dialogue, offset, notes)?);
                    return Ok(Some(Space { bytes, exact: true, at_once: WINDOW as usize }));
                }
            }
            offset += WINDOW;
        }
        if offset == FAR && !bytes.ends_with(&[0]) {
            notes.push(format!("its configuration space has no end within {FAR} bytes"));
        }
        return Ok(Some(Space { bytes, exact: false, at_once: WINDOW as usize }));
    }
    let mut accepted = longest_window(dialogue, 0, notes)?;
    // Or in one piece only.
    if accepted.is_empty() {
        let spaces = DeviceId::ALL.iter().filter_map(|&id| config_space(id));
        let mut lengths: Vec<usize> = spaces.flat_map(|space| space.lengths).copied().collect();
        lengths.sort_unstable();
        lengths.dedup();
        for len in lengths.into_iter().rev().filter_map(|len| u32::try_from(len).ok()).filter(|&len| len > 0)
        {
            if let Some(bytes) = window(dialogue, 0, len, notes)? {
                accepted = bytes;
                break;
            }
        }
    }
    let at_once = accepted.len();
    Ok((at_once > 0).then_some(Space { bytes: accepted, exact: true, at_once }))
}

/// Reads as much as is accepted from `offset` on, where a whole window is not.
fn longest_window(dialogue: &mut Dialogue, offset: u32, notes: &mut Vec<String>) -> Result<Vec<u8>, Trouble> {
    let (mut accepted, mut refused) = (Vec::new(), WINDOW as usize);
    while accepted.len() + 1 < refused {
        let middle = accepted.len().midpoint(refused);
        match window(dialogue, offset, u32::try_from(middle).unwrap_or(WINDOW), notes)? {
            Some(bytes) => accepted = bytes,
            None => refused = middle,
        }
    }
    Ok(accepted)
}

/// Reads a part of the configuration space; `None` where it is refused.
fn window(
    dialogue: &mut Dialogue,
    offset: u32,
    size: u32,
    notes: &mut Vec<String>,
) -> Result<Option<Vec<u8>>, Trouble> {
    match dialogue.ask(Request::GetConfig { offset, size, flags: 0 }) {
        Ok(Reply::Config { data, offset: at, .. }) => {
            if at != offset {
                notes.push(format!("asked for its configuration at {offset}, it answers with offset {at}"));
            }
            Ok(Some(data))
        }
        Err(Trouble::Misfit { .. }) => {
            let answers = "it answers with another amount";
            if !notes.iter().any(|note| note.ends_with(answers)) {
                notes.push(format!("asked for {size} bytes of configuration: {answers}"));
            }
            Ok(None)
        }
        Ok(_) | Err(Trouble::Refused(_)) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// The process at the other end, by the credentials of the one that listens, and what /proc tells of it.
fn program(socket: &UnixStream) -> Option<Program> {
    let pid = peer::pid(socket).ok()??.as_raw_nonzero().get();
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.strip_suffix(&[0]).unwrap_or(&line).split(|byte| *byte == 0);
    Some(Program {
        pid,
        executable: executable.map(|path| path.display().to_string()),
        command: words.map(|word| String::from_utf8_lossy(word).into_owned()).collect(),
    })
}
