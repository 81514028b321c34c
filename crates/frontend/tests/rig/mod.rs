//! A back end that keeps to the protocol, except where a test wants it not to, and the front end before it.
#![allow(dead_code, reason = "each test file is a program of its own and uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

pub(crate) mod echo;

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use outboard_frontend::{Error, Frontend, Layout, Options, PROTOCOL_FEATURES, RegionSpec};
use outboard_vhost_user::back_channel::{self, Message};
use outboard_vhost_user::message::flags;
use outboard_vhost_user::payload::ShmemConfig;
use outboard_vhost_user::transport::{Transport, UnixOptions, UnixTransport};
use outboard_vhost_user::{
    Answer, BackendSession, Frame, FrontendRequest, Offer, ProtocolFeatures, Refusal, Reply, Request,
};
use outboard_virtio_defs::features as bits;

pub(crate) const FEATURES: u64 = bits::VIRTIO_F_VERSION_1
    | bits::VIRTIO_F_EVENT_IDX
    | bits::VHOST_F_LOG_ALL
    | bits::VHOST_USER_F_PROTOCOL_FEATURES;

/// Long enough for what is to happen; for what is not, see [`brief`].
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn options(timeout: Duration) -> Options {
    let memory = Layout { regions: vec![RegionSpec::new(0x1_0000, 0x10_0000)] };
    Options { timeout, connect_timeout: timeout, memory, ..Options::default() }
}

pub(crate) fn brief() -> Options {
    options(Duration::from_millis(100))
}

pub(crate) fn patient() -> Options {
    options(LONG)
}

/// What a back end answers, given the answers of a good one; `None`: it goes away.
pub(crate) type Twist = Box<dyn FnMut(&FrontendRequest, Answer) -> Option<Answer> + Send>;

/// What a back end says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Says {
    pub(crate) features: u64,
    pub(crate) protocol: ProtocolFeatures,
    /// Rings that it has, and what it answers when asked how many.
    pub(crate) rings: u32,
    pub(crate) queues: u64,
}

impl Says {
    pub(crate) fn new(features: u64) -> Self {
        Self { features, protocol: PROTOCOL_FEATURES, rings: 2, queues: 2 }
    }
}

/// What a back end does with a request, if not what others do with it.
pub(crate) type Own = Box<dyn FnMut(&mut Fake, Request) -> Result<Result<Reply, Refusal>, Request> + Send>;

/// A back end that keeps to the protocol, but for what `twist` does.
pub(crate) struct Fake {
    transport: UnixTransport,
    session: BackendSession,
    status: u64,
    says: Says,
    own: Option<Own>,
    pub(crate) back_channel: Option<UnixTransport>,
}

impl Fake {
    pub(crate) fn new(stream: UnixStream, says: Says) -> Self {
        let Says { features, protocol, rings, .. } = says;
        let offer = Offer { features, tolerated_features: 0, protocol, queues: rings };
        let limits = UnixOptions { idle_timeout: Some(LONG), ..UnixOptions::default() };
        let transport = UnixTransport::with_options(stream, limits);
        Self {
            transport,
            session: BackendSession::new(offer),
            status: 0,
            says,
            own: None,
            back_channel: None,
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }

    pub(crate) fn serve(mut self, mut twist: Twist) {
        while let Ok(Some(frame)) = self.transport.receive() {
            let code = FrontendRequest(frame.request);
            let outcome = self.session.decode(frame).and_then(|request| self.answer(request));
            match twist(&code, self.session.answer(outcome)) {
                Some(Answer::Send(frame)) => self.transport.send(frame).unwrap(),
                Some(Answer::Nothing) => {}
                Some(Answer::Close) | None => return,
            }
        }
    }

    fn answer(&mut self, request: Request) -> Result<Reply, Refusal> {
        let request = match self.own.take() {
            Some(mut own) => {
                let done = own(self, request);
                self.own = Some(own);
                match done {
                    Ok(done) => return done,
                    Err(request) => request,
                }
            }
            None => request,
        };
        Ok(match request {
            Request::GetFeatures => Reply::U64(self.says.features),
            Request::GetProtocolFeatures => Reply::U64(self.says.protocol.0),
            Request::GetQueueNum => Reply::U64(self.says.queues),
            Request::GetMaxMemSlots => Reply::U64(8),
            Request::GetStatus => Reply::U64(self.status),
            Request::SetStatus(status) => {
                self.status = status;
                Reply::Ack
            }
            Request::GetVringBase { index } => Reply::VringState { index, num: 0 },
            Request::GetShmemConfig => Reply::Shmem(Box::new(ShmemConfig::new([(1, 0x4000)]))),
            Request::GetConfig { offset: 0, size, flags } => {
                self.change_config();
                Reply::Config { offset: 0, flags, data: vec![7; size as usize] }
            }
            Request::GetConfig { .. } => Reply::ConfigRefused,
            Request::SetBackendReqFd(fd) => {
                self.back_channel = Some(UnixTransport::new(fd));
                Reply::Ack
            }
            _ => Reply::Ack,
        })
    }

    /// Says twice on the back channel that the configuration has changed, and something that nothing serves, and
    /// waits for the answers before it gives its own.
    pub(crate) fn change_config(&mut self) {
        let Some(channel) = &mut self.back_channel else { return };
        let uuid = Message::SharedObjectAdd([1; 16]);
        for (message, verdict) in [(Message::ConfigChange, 0), (Message::ConfigChange, 0), (uuid, 1)] {
            channel.send(back_channel::write_message(message, true).unwrap()).unwrap();
            let answer = channel.receive().unwrap().unwrap();
            assert_eq!((answer.flags, answer.body), (flags::OF_REPLY, u64::to_ne_bytes(verdict).to_vec()));
        }
    }
}

/// A front end before such a back end, and what becomes of it.
pub(crate) fn before(
    options: Options,
    features: u64,
    twist: Twist,
) -> (Result<Frontend, Error>, JoinHandle<()>) {
    before_one_that(options, Says::new(features), twist)
}

/// The same, for a back end that says more of itself.
pub(crate) fn before_one_that(
    options: Options,
    says: Says,
    twist: Twist,
) -> (Result<Frontend, Error>, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let back_end = thread::spawn(move || Fake::new(theirs, says).serve(twist));
    (Frontend::from_stream(ours, options), back_end)
}

pub(crate) fn good() -> Twist {
    Box::new(|_, answer| Some(answer))
}

/// Answers to `code` with `instead`, and else as it should.
pub(crate) fn twisted(
    code: FrontendRequest,
    mut instead: impl FnMut(Answer) -> Option<Answer> + Send + 'static,
) -> Twist {
    Box::new(move |asked, answer| if *asked == code { instead(answer) } else { Some(answer) })
}

pub(crate) fn changed(answer: Answer, change: impl FnOnce(&mut Frame)) -> Option<Answer> {
    let Answer::Send(mut frame) = answer else { panic!("no answer was due") };
    change(&mut frame);
    Some(Answer::Send(frame))
}

/// The same, for a back end that does some things its own way.
pub(crate) fn before_one_with(options: Options, says: Says, own: Own) -> (Frontend, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let back_end = thread::spawn(move || {
        let mut fake = Fake::new(theirs, says);
        fake.own = Some(own);
        fake.serve(good());
    });
    (Frontend::from_stream(ours, options).unwrap(), back_end)
}

/// Waits for something to become true.
pub(crate) fn eventually(mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !check() {
        assert!(Instant::now() < deadline, "not in time");
        thread::sleep(Duration::from_millis(1));
    }
}
