//! Our front end's half, against our back end's half and against answers that do not fit.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use outboard_vhost_user::payload::{Inflight, ShmemConfig, VringAddr};
use outboard_vhost_user::{
    Answer, BackendSession, Frame, FrontendRequest as Code, FrontendSession, ProtocolFeatures, Refusal,
    Reply, Request,
};
use support::*;

/// Both halves, joined.
struct Joined {
    front: FrontendSession,
    back: BackendSession,
}

impl Joined {
    fn new() -> Self {
        Self { front: FrontendSession::new(), back: fresh() }
    }

    /// Negotiated in the order that every back end accepts.
    fn agreed() -> Self {
        let mut joined = Self::new();
        joined.ask(Request::SetOwner, Ok(Reply::Ack)).unwrap();
        joined.ask(Request::GetFeatures, Ok(Reply::U64(FEATURES))).unwrap();
        joined.ask(Request::GetProtocolFeatures, Ok(Reply::U64(everything().0))).unwrap();
        joined.ask(Request::SetProtocolFeatures(everything().0), Ok(Reply::Ack)).unwrap();
        joined.ask(Request::SetFeatures(FEATURES), Ok(Reply::Ack)).unwrap();
        joined
    }

    /// Carries a request over and the answer back; `None` if none is due.
    fn ask(&mut self, request: Request, result: Result<Reply, Refusal>) -> Result<Option<Reply>, Refusal> {
        let code = request.code();
        let frame = self.front.encode(request)?;
        assert_eq!(self.back.decode(frame)?.code(), code);
        match self.back.answer(result) {
            Answer::Send(frame) => self.front.reply(frame).map(Some),
            Answer::Nothing => {
                assert!(!self.front.expects_reply(), "{code}");
                Ok(None)
            }
            Answer::Close => panic!("{code}"),
        }
    }
}

fn refusal(result: Result<Option<Reply>, Refusal>) -> Refusal {
    result.expect_err("refused")
}

#[test]
fn every_request_is_carried_and_answered() {
    let mut joined = Joined::agreed();
    let ack = || Ok(Reply::Ack);
    let setters = [
        Request::SetFeatures(FEATURES),
        Request::SetOwner,
        Request::ResetOwner,
        Request::SetMemTable(vec![(region(0), fd()), (region(1), fd())]),
        Request::SetLogFd(fd()),
        Request::SetVringNum { index: 0, num: 8 },
        Request::SetVringAddr(VringAddr::default()),
        Request::SetVringBase { index: 0, num: 1 },
        Request::SetVringKick { index: 0, fd: Some(fd()) },
        Request::SetVringCall { index: 0, fd: None },
        Request::SetVringErr { index: 0, fd: Some(fd()) },
        Request::SetProtocolFeatures(everything().0),
        Request::SetVringEnable { index: 0, enable: true },
        Request::SendRarp([1; 6]),
        Request::NetSetMtu(1500),
        Request::SetBackendReqFd(fd()),
        Request::IotlbMsg(outboard_vhost_user::payload::Iotlb::default()),
        Request::SetVringEndian { index: 0, big: false },
        Request::SetConfig { offset: 0, flags: 0, data: vec![1, 2] },
        Request::CloseCryptoSession(1),
        Request::PostcopyListen,
        Request::PostcopyEnd,
        Request::SetInflightFd(Inflight::new(4096, 0, 1, 8), fd()),
        Request::GpuSetSocket(fd()),
        Request::ResetDevice,
        Request::VringKick { index: 0 },
        Request::AddMemReg(region(5), fd()),
        Request::RemMemReg(region(5)),
        Request::SetStatus(15),
        Request::CheckDeviceState,
    ];
    for request in setters {
        assert!(matches!(joined.ask(request, ack()), Ok(Some(Reply::Ack))));
    }
    for request in [
        Request::GetFeatures,
        Request::GetProtocolFeatures,
        Request::GetQueueNum,
        Request::GetMaxMemSlots,
        Request::GetStatus,
    ] {
        assert!(matches!(joined.ask(request, Ok(Reply::U64(FEATURES))), Ok(Some(Reply::U64(FEATURES)))));
    }
    for request in [Request::GetVringBase { index: 1 }, Request::GetVringBaseSkipDrain { index: 1 }] {
        let answer = joined.ask(request, Ok(Reply::VringState { index: 1, num: 9 }));
        assert!(matches!(answer, Ok(Some(Reply::VringState { index: 1, num: 9 }))));
    }
    let log = Request::SetLogBase { size: 4096, offset: 0, fd: Some(fd()) };
    let answer = joined.ask(log, Ok(Reply::LogBase { size: 4096, offset: 0 }));
    assert!(matches!(answer, Ok(Some(Reply::LogBase { size: 4096, offset: 0 }))));
    let wanted = Request::GetConfig { offset: 4, size: 8, flags: 0 };
    let answer = joined.ask(wanted, Ok(Reply::Config { offset: 4, flags: 0, data: vec![7; 8] }));
    assert!(matches!(answer, Ok(Some(Reply::Config { offset: 4, flags: 0, data })) if data == [7; 8]));
    let buffer = Inflight::new(4096, 0, 1, 8);
    let answer = joined.ask(Request::GetInflightFd(buffer), Ok(Reply::Inflight(buffer, Some(fd()))));
    assert!(matches!(answer, Ok(Some(Reply::Inflight(given, Some(_)))) if given == buffer));
    let transfer = Request::SetDeviceStateFd { direction: 0, phase: 0, fd: fd() };
    let answer = joined.ask(transfer, Ok(Reply::DeviceState { value: 0x100, fd: None }));
    assert!(matches!(answer, Ok(Some(Reply::DeviceState { value: 0x100, fd: None }))));
    let answer = joined.ask(Request::GetSharedObject([1; 16]), Ok(Reply::SharedObject(Some(fd()))));
    assert!(matches!(answer, Ok(Some(Reply::SharedObject(Some(_))))));
    let answer = joined.ask(Request::PostcopyAdvise, Ok(Reply::Uffd(Some(fd()))));
    assert!(matches!(answer, Ok(Some(Reply::Uffd(Some(_))))));
    let shmem = ShmemConfig::new([(3, 4096)]);
    let answer = joined.ask(Request::GetShmemConfig, Ok(Reply::Shmem(Box::new(shmem))));
    assert!(matches!(answer, Ok(Some(Reply::Shmem(config))) if *config == shmem));
    let answer = joined.ask(Request::CreateCryptoSession(vec![1; 32]), Ok(Reply::CryptoSession(vec![2; 32])));
    assert!(matches!(answer, Ok(Some(Reply::CryptoSession(session))) if session == [2; 32]));
}

#[test]
fn acknowledgements_begin_after_reply_ack() {
    let mut joined = Joined::new();
    assert!(matches!(joined.ask(Request::SetOwner, Ok(Reply::Ack)), Ok(None)));
    joined.ask(Request::GetFeatures, Ok(Reply::U64(FEATURES))).unwrap();
    let bits = ProtocolFeatures::REPLY_ACK.0;
    assert!(matches!(joined.ask(Request::SetProtocolFeatures(bits), Ok(Reply::Ack)), Ok(None)));
    assert!(matches!(joined.ask(Request::SetOwner, Ok(Reply::Ack)), Ok(Some(Reply::Ack))));
    joined.front.ask_for_acks(false);
    assert!(matches!(joined.ask(Request::SetOwner, Ok(Reply::Ack)), Ok(None)));
}

#[test]
fn refusal_comes_back_as_nack_and_undoes_the_agreement() {
    let mut joined = Joined::agreed();
    let failed = Err(Refusal::failed(Code::SET_FEATURES, "no"));
    let nack = refusal(joined.ask(Request::SetFeatures(1 << 32), failed));
    assert_eq!(nack, Refusal::Nack { id: Code::SET_FEATURES.into(), value: 1 });
    assert_eq!((joined.front.features(), joined.back.features()), (FEATURES, FEATURES));
    assert!(joined.ask(Request::SetOwner, Ok(Reply::Ack)).is_ok());
}

#[test]
fn unnegotiated_request_is_not_sent() {
    let mut front = FrontendSession::new();
    let mut refused = |request| front.encode(request).unwrap_err();
    assert!(matches!(refused(Request::GetProtocolFeatures), Refusal::NotNegotiated { .. }));
    assert!(matches!(refused(Request::GetStatus), Refusal::NotNegotiated { needs: "STATUS", .. }));
    assert!(matches!(
        refused(Request::SetVringEnable { index: 0, enable: true }),
        Refusal::NotNegotiated { .. }
    ));
}

#[test]
fn unoffered_bits_are_not_sent() {
    let mut joined = Joined::agreed();
    let refused = refusal(joined.ask(Request::SetFeatures(FEATURES | 1), Ok(Reply::Ack)));
    assert!(matches!(refused, Refusal::NotOffered { bits: 1, .. }));
    let refused = refusal(joined.ask(Request::SetProtocolFeatures(1 << 60), Ok(Reply::Ack)));
    assert!(matches!(refused, Refusal::NotOffered { .. }));
}

#[test]
fn request_that_the_format_cannot_hold_is_not_sent() {
    let mut front = FrontendSession::new();
    let refused = front.encode(Request::SetVringCall { index: 256, fd: None }).unwrap_err();
    assert!(matches!(refused, Refusal::BadIndex { index: 256, .. }));
    let regions = (0..254).map(|n| (region(n), fd())).collect();
    assert!(matches!(front.encode(Request::SetMemTable(regions)), Err(Refusal::Oversized { size: 254, .. })));
    let mut joined = Joined::agreed();
    let refused =
        refusal(joined.ask(Request::GetConfig { offset: 0, size: u32::MAX, flags: 0 }, Ok(Reply::Ack)));
    assert!(matches!(refused, Refusal::Oversized { .. }));
    assert!(!joined.front.expects_reply());
}

#[test]
fn request_while_an_answer_is_due_is_not_sent() {
    let mut front = FrontendSession::new();
    front.encode(Request::GetFeatures).unwrap();
    assert!(front.expects_reply());
    assert!(matches!(front.encode(Request::SetOwner), Err(Refusal::OutOfTurn { .. })));
}

fn reply(code: Code, flags: u32, body: &[u8]) -> Frame {
    Frame { request: code.0, flags, body: body.to_vec(), fds: Vec::new() }
}

#[test]
fn answer_that_does_not_fit_is_refused() {
    let spoilt = [
        reply(Code::SET_OWNER, 5, &[0; 8]),
        reply(Code::GET_FEATURES, 0xd, &[0; 8]),
        reply(Code::GET_FEATURES, 1, &[0; 8]),
        reply(Code::GET_FEATURES, 5, &[0; 4]),
        reply(Code::GET_FEATURES, 5, &[0; 9]),
    ];
    for frame in spoilt {
        let mut front = FrontendSession::new();
        front.encode(Request::GetFeatures).unwrap();
        let refused = front.reply(frame).unwrap_err();
        assert!(!matches!(refused, Refusal::Nack { .. }));
    }
    let unasked = FrontendSession::new().reply(reply(Code::GET_FEATURES, 5, &[0; 8]));
    assert!(matches!(unasked, Err(Refusal::OutOfTurn { .. })));
}

#[test]
fn answer_about_another_ring_is_refused() {
    let mut joined = Joined::agreed();
    let answer = joined.ask(Request::GetVringBase { index: 1 }, Ok(Reply::VringState { index: 2, num: 0 }));
    assert!(matches!(refusal(answer), Refusal::OutOfTurn { .. }));
}

#[test]
fn get_config_answers_are_checked_for_size() {
    let cases: [(Vec<u8>, bool); 5] = [
        (config(0, 8, 0, &[0; 8]), true),
        (Vec::new(), true),
        (config(0, 8, 0, &[0; 7]), false),
        (config(0, 4, 0, &[0; 4]), false),
        (config(0, u32::MAX, 0, &[0; 8]), false),
    ];
    for (body, fits) in cases {
        let mut front = Joined::agreed().front;
        front.encode(Request::GetConfig { offset: 0, size: 8, flags: 0 }).unwrap();
        assert_eq!(front.reply(reply(Code::GET_CONFIG, 5, &body)).is_ok(), fits);
    }
}

#[test]
fn set_log_base_answers_of_all_known_back_ends_are_taken() {
    let cases: [(&[u8], bool); 4] = [(&[], true), (&[0; 8], true), (&[1; 8], false), (&[0; 16], true)];
    for (body, done) in cases {
        let mut front = Joined::agreed().front;
        front.encode(Request::SetLogBase { size: 0, offset: 0, fd: Some(fd()) }).unwrap();
        assert_eq!(front.reply(reply(Code::SET_LOG_BASE, 5, body)).is_ok(), done);
    }
}
