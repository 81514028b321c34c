//! What a check has to work with: the back end, what it offers, and how to come by connections.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtio_defs::features::{
    VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1,
};
use outboard_virtqueue::Format;
use rustix::process::Pid;

use super::sample::{Kind, Sample};
use super::verdict::{Checked, Stop};
use super::wire::Wire;
use crate::target::Target;

/// How long nothing has to come until it counts as nothing. Only ever to give a back end the time to do what it must
/// not do: a slow machine makes a check miss a fault, not find one that is not there.
pub(crate) const LULL: Duration = Duration::from_millis(100);

/// How long a back end may take to end with its front end, where it does.
const LEAVING: Duration = Duration::from_millis(500);

/// What the back end offers. Constant for a device.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offer {
    /// Virtio features.
    pub(crate) features: u64,
    /// Protocol features.
    pub(crate) protocol: u64,
    /// How many queues, where it tells.
    pub(crate) queues: Option<u64>,
    /// How many memory slots, where it tells.
    pub(crate) slots: Option<u64>,
}

impl Offer {
    /// Are all these protocol features on offer?
    pub(crate) fn has(&self, wanted: ProtocolFeatures) -> bool {
        ProtocolFeatures(self.protocol).contains(wanted)
    }
}

/// What a check has to work with.
#[derive(Debug)]
pub(crate) struct Cx {
    pub(crate) target: Target,
    pub(crate) offer: Offer,
    pub(crate) kind: Kind,
    /// A chip on an I2C bus that may be written to, as the user says.
    pub(crate) chip: Option<u8>,
    /// A line of a GPIO controller that may be driven, and the one that it is wired to, as the user says.
    pub(crate) wired: Option<(u16, u16)>,
    /// A socket that presses keys of an input device, as the user says.
    pub(crate) drive: Option<PathBuf>,
    /// A port of the host that gives a guest back what it sends, as the user says.
    pub(crate) echo: Option<u32>,
    /// How long an answer may take.
    pub(crate) patience: Duration,
    notes: Vec<String>,
    /// After the last check nobody answered.
    pub(super) missed: bool,
    leaves: Leaves,
    /// The process that had a front end last.
    met: Option<Pid>,
    /// The socket that it listened on then: number and time of birth.
    socket: Option<(u64, i64)>,
    /// Whether what is written to its disk is there when the program is started again, once that is known.
    pub(crate) keeps: Option<bool>,
    /// Whether a network interface sends back what it is sent, once that is known.
    pub(crate) loops: Option<bool>,
}

/// What a back end does when its front end is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// It serves the next one.
    Serves,
    /// It ends, as some do.
    Ends,
    /// It makes its socket anew, and who had connected to the old one is not served.
    Relistens,
}

impl Cx {
    /// Finds out what the back end offers.
    ///
    /// # Errors
    /// It cannot even be asked.
    pub(crate) fn new(target: Target, kind: Option<Kind>, patience: Duration) -> Checked<Self> {
        let (offer, kind) = (Offer::default(), kind.unwrap_or(Kind::Unknown));
        let (notes, leaves) = (Vec::new(), Leaves::Serves);
        let (missed, met, socket, keeps, loops) = (false, None, None, None, None);
        let mut this = Self {
            target,
            offer,
            kind,
            chip: None,
            wired: None,
            drive: None,
            echo: None,
            patience,
            notes,
            missed,
            leaves,
            met,
            socket,
            keeps,
            loops,
        };
        this.leaves = this.find_leaves()?;
        this.offer = this.find_offer()?;
        if this.kind == Kind::Unknown {
            this.kind = Kind::guess(&this)?;
        }
        Ok(this)
    }

    /// One that makes its socket anew, or ends, is found by chance only, so it is tried some times. Who answers each
    /// time is not waited for.
    fn find_leaves(&mut self) -> Checked<Leaves> {
        const TRIES: usize = 10;
        self.wire()?.ask_leniently(Code::GET_FEATURES)?;
        let first = self.met;
        for _ in 0..TRIES {
            let asked = self.wire().and_then(|mut wire| wire.ask_leniently(Code::GET_FEATURES));
            if asked.is_err() && self.ends_within(LEAVING)? || self.met != first {
                return Ok(Leaves::Ends);
            }
            if asked.is_err() {
                return Ok(Leaves::Relistens);
            }
        }
        Ok(Leaves::Serves)
    }

    /// What the back end does when its front end is gone.
    pub(crate) fn leaves(&self) -> Leaves {
        self.leaves
    }

    /// Takes what comes for an answer, whatever its form: judging that is for the checks. Each question has a
    /// connection of its own, since an answer too many would be taken for the next.
    fn find_offer(&mut self) -> Checked<Offer> {
        let features = self.wire()?.ask_leniently(Code::GET_FEATURES)?;
        let mut offer = Offer { features, ..Offer::default() };
        if features & VHOST_USER_F_PROTOCOL_FEATURES == 0 {
            return Ok(offer);
        }
        offer.protocol = self.wire()?.ask_leniently(Code::GET_PROTOCOL_FEATURES)?;
        if offer.has(ProtocolFeatures::MQ) {
            offer.queues = self.find_number(offer, ProtocolFeatures::MQ, Code::GET_QUEUE_NUM)?;
        }
        if offer.has(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
            let needs = ProtocolFeatures::CONFIGURE_MEM_SLOTS;
            offer.slots = self.find_number(offer, needs, Code::GET_MAX_MEM_SLOTS)?;
        }
        Ok(offer)
    }

    /// A number that is there once `needs` is agreed on; `None` when it does not come.
    fn find_number(&mut self, offer: Offer, needs: ProtocolFeatures, code: Code) -> Checked<Option<u64>> {
        let mut wire = self.wire()?;
        let agreed = offer.protocol & (needs | ProtocolFeatures::REPLY_ACK).0;
        let asked = wire
            .send(Code::SET_OWNER, &[], &[])
            .and_then(|()| wire.send(Code::SET_PROTOCOL_FEATURES, &agreed.to_ne_bytes(), &[]))
            .and_then(|()| wire.ask_leniently(code));
        Ok(asked.ok())
    }

    /// Whether a back end that is not ours to start was missed, and still takes no connection: nothing is waited for,
    /// so that each check that is left does not take as long as an answer may.
    pub(crate) fn is_gone(&mut self) -> bool {
        let gone =
            self.missed && !self.target.is_ours() && outboard_frontend::dial(self.target.socket()).is_err();
        self.missed &= gone;
        gone
    }

    /// A new connection, on which nothing was said yet. A back end that ended with its last front end, and is ours
    /// to start, is started again.
    pub(crate) fn wire(&mut self) -> Checked<Wire> {
        Wire::new(self.stream()?, self.patience)
    }

    /// A new connection as a socket.
    pub(crate) fn stream(&mut self) -> Checked<UnixStream> {
        self.settle()?;
        self.stream_at_once()
    }

    /// The same, however short ago the last front end has left.
    pub(crate) fn stream_at_once(&mut self) -> Checked<UnixStream> {
        let deadline = Instant::now() + self.patience;
        loop {
            self.revive()?;
            let socket = self.socket_file();
            match outboard_frontend::dial(self.target.socket()) {
                Ok(stream) => {
                    self.met = self.target.back_end().map(|back_end| back_end.pid());
                    self.socket = socket;
                    return Ok(stream);
                }
                Err(error) if Instant::now() >= deadline => {
                    return Err(Stop::fail(format!("the back end does not take connections: {error}")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Starts the back end if it is ours and has ended: by itself it may, with its connection, but only well.
    fn revive(&mut self) -> Checked {
        if let Some(back_end) = self.target.back_end()
            && let Some(status) = back_end.ended()?
        {
            self.target.take_back_end();
            if !status.success() {
                return Err(Stop::fail(format!("the back end ended with {status}")));
            }
        }
        Ok(self.target.start()?)
    }

    /// Waits for what a back end does when its front end is gone: until it has, it takes one more connection, and
    /// does not serve it. Only one check looks at that.
    fn settle(&mut self) -> Checked {
        match self.leaves {
            Leaves::Serves => {}
            Leaves::Ends => {
                let pid = self.target.back_end().map(|back_end| back_end.pid());
                if pid.is_some() && pid == self.met {
                    // One that does not end this time is tried as it is.
                    self.ends_within(self.patience)?;
                }
            }
            Leaves::Relistens => {
                let deadline = Instant::now() + self.patience;
                while Instant::now() < deadline && [self.socket, None].contains(&self.socket_file()) {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
        Ok(())
    }

    /// The file of the socket, as it is now; a number may be used again for a new one.
    fn socket_file(&self) -> Option<(u64, i64)> {
        let metadata = self.target.socket().symlink_metadata().ok()?;
        Some((metadata.ino(), metadata.ctime_nsec()))
    }

    /// The process that the next front end will have.
    pub(crate) fn process(&mut self) -> Checked<Pid> {
        self.settle()?;
        self.revive()?;
        self.target.pid().map_err(|error| Stop::Skip(format!("its process is not known: {error:#}")))
    }

    /// Whether the back end that is ours ends by itself before so much time has passed.
    fn ends_within(&mut self, time: Duration) -> Checked<bool> {
        let deadline = Instant::now() + time;
        while let Some(back_end) = self.target.back_end() {
            if back_end.ended()?.is_some() {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(false)
    }

    /// The sample request of the device.
    ///
    /// # Errors
    /// No request of this device type is known.
    pub(crate) fn sample(&self) -> Checked<Sample> {
        self.kind.sample().ok_or_else(|| {
            Stop::Skip(format!("no request is known for a device of type {}", self.kind.name()))
        })
    }

    /// Fails as not applicable without these protocol features.
    pub(crate) fn needs(&self, wanted: ProtocolFeatures) -> Checked {
        let missing = wanted - ProtocolFeatures(self.offer.protocol);
        if missing.is_empty() { Ok(()) } else { Err(Stop::lacks(missing)) }
    }

    /// Fails as not applicable without this virtio feature.
    pub(crate) fn needs_feature(&self, mask: u64, name: &str) -> Checked {
        if self.offer.features & mask == mask { Ok(()) } else { Err(Stop::lacks(name)) }
    }

    /// Fails as skipped unless the back end is ours to start and end.
    pub(crate) fn needs_command(&self) -> Checked {
        if self.target.is_ours() {
            return Ok(());
        }
        Err(Stop::Skip("only with `-- COMMAND`: it starts the back end itself".to_owned()))
    }

    /// The ring formats on offer.
    pub(crate) fn formats(&self) -> Vec<Format> {
        let packed = VIRTIO_F_RING_PACKED | VIRTIO_F_VERSION_1;
        let has_packed = self.offer.features & packed == packed;
        [Format::Split].into_iter().chain(has_packed.then_some(Format::Packed)).collect()
    }

    /// Runs a check's body for each ring format on offer; a failure says for which.
    pub(crate) fn each_format(&mut self, mut body: impl FnMut(&mut Self, Format) -> Checked) -> Checked {
        for format in self.formats() {
            body(self, format).map_err(|stop| stop.when(format_args!("{format:?} ring")))?;
        }
        Ok(())
    }

    /// Waits for a condition, for as long as an answer may take.
    pub(crate) fn eventually(&self, mut condition: impl FnMut() -> Checked<bool>) -> Checked<bool> {
        let deadline = Instant::now() + self.patience;
        loop {
            if condition()? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Something worth telling that is no fault.
    pub(crate) fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// The notes since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }
}
