//! Handshakes as front ends really speak them: order, flags, sizes and stray descriptors of each.
//!
//! A dialogue is a list of lines: what the front end sends, and what has to come back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use outboard_vhost_user::message::flags;
use outboard_vhost_user::payload::{Inflight, VringAddr};
use outboard_vhost_user::{
    Answer, BackendSession, Frame, FrontendRequest as Code, Offer, ProtocolFeatures, Reply, ReplyKind,
    Request,
};
use support::*;
use zerocopy::IntoBytes;

const NO_BODY: &[u8] = &[];
const ASK: u32 = flags::VERSION | flags::NEED_REPLY;
const PLAIN: u32 = flags::VERSION;

/// What has to come back.
enum Back {
    Nothing,
    /// Zero in a `u64`.
    Done,
    /// A payload of so many bytes.
    Bytes(usize),
    /// A payload of so many bytes and a descriptor.
    WithFd(usize),
}

use Back::{Bytes, Done, Nothing, WithFd};

/// A back end that offers what ours do by default, and does as it is told.
struct Scene {
    session: BackendSession,
}

impl Scene {
    fn new() -> Self {
        Self { session: BackendSession::new(Offer { protocol: ProtocolFeatures::DEFAULT_OFFER, ..offer() }) }
    }

    /// The front end says something; the answer must be as expected.
    fn say(&mut self, flags: u32, code: Code, body: &[u8], fd_count: usize, back: Back) -> &mut Self {
        let frame = Frame { request: code.0, flags, body: body.to_vec(), fds: fds(fd_count) };
        let request = self.session.decode(frame).unwrap_or_else(|refusal| panic!("{refusal}"));
        let reply = self.do_it(&request);
        let answer = self.session.answer(Ok(reply));
        match (answer, back) {
            (Answer::Nothing, Nothing) => {}
            (Answer::Send(frame), Done) => {
                assert_eq!((frame.request, frame.flags, frame.body.as_slice()), (code.0, 5, &[0; 8][..]));
            }
            (Answer::Send(frame), Bytes(len)) => {
                assert_eq!((frame.request, frame.flags), (code.0, 5));
                assert_eq!((frame.body.len(), frame.fds.len()), (len, 0), "{code}");
            }
            (Answer::Send(frame), WithFd(len)) => {
                assert_eq!((frame.body.len(), frame.fds.len()), (len, 1), "{code}");
            }
            (answer, _) => panic!("{code}: {answer:?}"),
        }
        self
    }

    fn do_it(&self, request: &Request) -> Reply {
        match request {
            Request::GetFeatures => Reply::U64(self.session.offer().features),
            Request::GetProtocolFeatures => Reply::U64(self.session.offer().protocol.0),
            Request::GetVringBase { index } => Reply::VringState { index: *index, num: 0 },
            Request::GetConfig { offset, size, flags } => {
                let len = usize::try_from(*size).unwrap().min(36);
                Reply::Config { offset: *offset, flags: *flags, data: vec![1; len] }
            }
            Request::SetLogBase { size, offset, .. } => Reply::LogBase { size: *size, offset: *offset },
            Request::GetInflightFd(wanted) => {
                Reply::Inflight(Inflight { mmap_size: 4096, ..*wanted }, Some(fd()))
            }
            request if ReplyKind::of(request.code()) == ReplyKind::U64 => Reply::U64(4),
            _ => Reply::Ack,
        }
    }

    /// SET_VRING_NUM, _BASE, _ADDR, _KICK and _CALL, all with the same flags and answer.
    fn ring(&mut self, flags: u32, index: u32, back: fn() -> Back) -> &mut Self {
        let addr = VringAddr { index, ..VringAddr::default() };
        self.say(flags, Code::SET_VRING_NUM, state(index, 128).as_bytes(), 0, back())
            .say(flags, Code::SET_VRING_BASE, state(index, 0).as_bytes(), 0, back())
            .say(flags, Code::SET_VRING_ADDR, addr.as_bytes(), 0, back())
            .say(flags, Code::SET_VRING_KICK, &u64::from(index).to_ne_bytes(), 1, back())
            .say(flags, Code::SET_VRING_CALL, &u64::from(index).to_ne_bytes(), 1, back())
    }
}

fn wide(value: u64) -> [u8; 8] {
    value.to_ne_bytes()
}

#[test]
fn qemu_blk_init_start_stop() {
    let protocol = wide(ProtocolFeatures::DEFAULT_OFFER.0);
    let mut scene = Scene::new();
    scene
        .say(PLAIN, Code::GET_FEATURES, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::GET_PROTOCOL_FEATURES, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::SET_PROTOCOL_FEATURES, &protocol, 0, Nothing)
        .say(PLAIN, Code::GET_QUEUE_NUM, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::GET_MAX_MEM_SLOTS, NO_BODY, 0, Bytes(8))
        .say(ASK, Code::SET_BACKEND_REQ_FD, NO_BODY, 1, Done)
        .say(PLAIN, Code::SET_OWNER, NO_BODY, 0, Nothing)
        .say(PLAIN, Code::GET_FEATURES, NO_BODY, 0, Bytes(8));
    for index in 0..4 {
        scene.say(PLAIN, Code::SET_VRING_CALL, &wide(index), 1, Nothing).say(
            PLAIN,
            Code::SET_VRING_ERR,
            &wide(index),
            1,
            Nothing,
        );
    }
    scene
        .say(PLAIN, Code::GET_CONFIG, &config(0, 57, 0, &[0; 57]), 0, Bytes(69))
        .say(PLAIN, Code::SET_FEATURES, &wide(FEATURES & !(1 << 26)), 0, Nothing)
        .say(PLAIN, Code::GET_INFLIGHT_FD, &inflight(0, 4, 128), 0, WithFd(24))
        .say(PLAIN, Code::SET_INFLIGHT_FD, &inflight(4096, 4, 128), 1, Nothing);
    for _cycle in 0..3 {
        scene
            .say(PLAIN, Code::SET_FEATURES, &wide(FEATURES & !(1 << 26)), 0, Nothing)
            .say(PLAIN, Code::GET_FEATURES, NO_BODY, 0, Bytes(8))
            .say(ASK, Code::ADD_MEM_REG, &single(1), 1, Done)
            .ring(PLAIN, 0, || Nothing)
            .say(ASK, Code::SET_VRING_ENABLE, state(0, 1).as_bytes(), 0, Done)
            // A ring that was never configured.
            .say(ASK, Code::SET_VRING_ENABLE, state(3, 1).as_bytes(), 0, Done)
            .say(PLAIN, Code::GET_STATUS, NO_BODY, 0, Bytes(8))
            .say(PLAIN, Code::SET_STATUS, &wide(0xf), 0, Nothing)
            // Interrupts unmasked.
            .say(PLAIN, Code::SET_VRING_CALL, &wide(0), 1, Nothing)
            // Migration begins: log, features with it, ring with it.
            .say(PLAIN, Code::SET_LOG_BASE, [0x2000u64, 0].as_bytes(), 1, Bytes(16))
            .say(ASK, Code::SET_FEATURES, &wide(FEATURES), 0, Done)
            .say(PLAIN, Code::SET_VRING_ENABLE, state(0, 0).as_bytes(), 0, Nothing)
            .say(PLAIN, Code::GET_VRING_BASE, state(0, 0).as_bytes(), 0, Bytes(8))
            .say(PLAIN, Code::SET_STATUS, &wide(0), 0, Nothing);
    }
}

#[test]
fn qemu_net_enables_before_features_and_repeats_negotiation_per_pair() {
    let protocol = wide(ProtocolFeatures::DEFAULT_OFFER.0);
    let mut scene = Scene::new();
    for _pair in 0..2 {
        scene
            .say(PLAIN, Code::GET_FEATURES, NO_BODY, 0, Bytes(8))
            .say(PLAIN, Code::GET_PROTOCOL_FEATURES, NO_BODY, 0, Bytes(8))
            .say(PLAIN, Code::SET_PROTOCOL_FEATURES, &protocol, 0, Nothing);
    }
    scene
        .say(PLAIN, Code::SET_OWNER, NO_BODY, 0, Nothing)
        .say(ASK, Code::SET_VRING_ENABLE, state(0, 1).as_bytes(), 0, Done)
        .say(ASK, Code::SET_VRING_ENABLE, state(1, 1).as_bytes(), 0, Done);
}

#[test]
fn cloud_hypervisor_asks_for_every_answer_and_sets_flag_one() {
    let protocol = wide(ProtocolFeatures::DEFAULT_OFFER.0);
    let mut scene = Scene::new();
    scene
        .say(PLAIN, Code::SET_OWNER, NO_BODY, 0, Nothing)
        .say(PLAIN, Code::GET_FEATURES, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::SET_FEATURES, &wide(FEATURES), 0, Nothing)
        .say(PLAIN, Code::GET_PROTOCOL_FEATURES, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::SET_PROTOCOL_FEATURES, &protocol, 0, Nothing)
        .say(ASK, Code::GET_QUEUE_NUM, NO_BODY, 0, Bytes(8))
        .say(ASK, Code::GET_CONFIG, &config(0, 60, 1, &[0; 60]), 0, Bytes(72))
        .say(ASK, Code::SET_CONFIG, &config(32, 1, 1, &[1]), 0, Done)
        .say(ASK, Code::SET_FEATURES, &wide(FEATURES), 0, Done)
        // Slots are negotiated, yet the table comes whole.
        .say(ASK, Code::SET_MEM_TABLE, &table(2), 2, Done)
        .say(ASK, Code::GET_INFLIGHT_FD, &inflight(0, 1, 128), 0, WithFd(24))
        .say(ASK, Code::SET_INFLIGHT_FD, &inflight(4096, 1, 128), 1, Done)
        .ring(ASK, 0, || Done)
        .say(ASK, Code::SET_VRING_ENABLE, state(0, 1).as_bytes(), 0, Done)
        .say(ASK, Code::SET_BACKEND_REQ_FD, NO_BODY, 1, Done)
        .say(ASK, Code::ADD_MEM_REG, &single(7), 1, Done)
        .say(ASK, Code::SET_VRING_ENABLE, state(0, 0).as_bytes(), 0, Done)
        .say(ASK, Code::SET_VRING_ENABLE, state(0, 1).as_bytes(), 0, Done)
        .say(ASK, Code::SET_LOG_BASE, [4096u64, 0].as_bytes(), 1, Bytes(16))
        .say(ASK, Code::SET_LOG_BASE, [4096u64, 0].as_bytes(), 1, Bytes(16))
        .say(ASK, Code::SET_BACKEND_REQ_FD, NO_BODY, 1, Done);
}

#[test]
fn crosvm_never_asks() {
    let protocol = wide((ProtocolFeatures::CONFIG | ProtocolFeatures::MQ | ProtocolFeatures::BACKEND_REQ).0);
    Scene::new()
        .say(PLAIN, Code::SET_OWNER, NO_BODY, 0, Nothing)
        .say(PLAIN, Code::GET_FEATURES, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::SET_FEATURES, &wide(FEATURES), 0, Nothing)
        .say(PLAIN, Code::GET_PROTOCOL_FEATURES, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::SET_PROTOCOL_FEATURES, &protocol, 0, Nothing)
        .say(PLAIN, Code::GET_QUEUE_NUM, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::GET_CONFIG, &config(0, 8, 1, &[0; 8]), 0, Bytes(20))
        .say(PLAIN, Code::SET_CONFIG, &config(0, 4, 0, &[0; 4]), 0, Nothing)
        .say(PLAIN, Code::SET_MEM_TABLE, &table(3), 3, Nothing)
        .ring(PLAIN, 0, || Nothing)
        .say(PLAIN, Code::SET_VRING_ENABLE, state(0, 1).as_bytes(), 0, Nothing)
        .say(PLAIN, Code::GET_VRING_BASE, state(0, 0).as_bytes(), 0, Bytes(8));
}

#[test]
fn dpdk_virtio_user_owns_twice_and_stops_with_reset_owner() {
    let protocol = wide((ProtocolFeatures::MQ | ProtocolFeatures::REPLY_ACK | ProtocolFeatures::STATUS).0);
    Scene::new()
        .say(PLAIN, Code::SET_OWNER, NO_BODY, 0, Nothing)
        .say(PLAIN, Code::GET_FEATURES, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::GET_PROTOCOL_FEATURES, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::SET_PROTOCOL_FEATURES, &protocol, 0, Nothing)
        .say(PLAIN, Code::GET_QUEUE_NUM, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::SET_OWNER, NO_BODY, 0, Nothing)
        .say(PLAIN, Code::SET_VRING_CALL, &wide(0), 1, Nothing)
        .say(PLAIN, Code::SET_FEATURES, &wide(FEATURES), 0, Nothing)
        .say(PLAIN, Code::SET_MEM_TABLE, &table(8), 8, Nothing)
        .ring(PLAIN, 0, || Nothing)
        .say(PLAIN, Code::SET_VRING_ENABLE, state(0, 1).as_bytes(), 0, Nothing)
        .say(ASK, Code::SET_STATUS, &wide(0xf), 0, Done)
        .say(PLAIN, Code::SET_VRING_ENABLE, state(0, 0).as_bytes(), 0, Nothing)
        .say(PLAIN, Code::SET_MEM_TABLE, &table(7), 7, Nothing)
        .say(PLAIN, Code::SET_VRING_ENABLE, state(0, 1).as_bytes(), 0, Nothing)
        .say(PLAIN, Code::RESET_OWNER, NO_BODY, 0, Nothing)
        .say(PLAIN, Code::SET_FEATURES, &wide(FEATURES), 0, Nothing);
}

#[test]
fn spdk_initiator_sets_features_first_and_asks_queues_without_mq() {
    Scene::new()
        .say(PLAIN, Code::SET_OWNER, NO_BODY, 0, Nothing)
        .say(PLAIN, Code::GET_FEATURES, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::SET_FEATURES, &wide(FEATURES), 0, Nothing)
        .say(PLAIN, Code::GET_QUEUE_NUM, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::GET_PROTOCOL_FEATURES, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::SET_PROTOCOL_FEATURES, &wide(ProtocolFeatures::CONFIG.0), 0, Nothing)
        .say(PLAIN, Code::GET_CONFIG, &config(0, 256, 0, &[0; 256]), 0, Bytes(268))
        .say(PLAIN, Code::SET_CONFIG, &config(0, 1, 0, &[0; 256]), 0, Nothing)
        .say(PLAIN, Code::SET_VRING_CALL, &wide(0), 1, Nothing)
        .say(PLAIN, Code::SET_VRING_ENABLE, state(0, 1).as_bytes(), 0, Nothing)
        .say(PLAIN, Code::SET_MEM_TABLE, &table(1), 1, Nothing)
        .ring(PLAIN, 0, || Nothing);
}

#[test]
fn libblkio_asks_for_every_answer_and_removes_memory_with_a_descriptor() {
    let protocol =
        ProtocolFeatures::REPLY_ACK | ProtocolFeatures::CONFIG | ProtocolFeatures::CONFIGURE_MEM_SLOTS;
    Scene::new()
        .say(PLAIN, Code::SET_OWNER, NO_BODY, 0, Nothing)
        .say(PLAIN, Code::GET_FEATURES, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::SET_FEATURES, &wide(FEATURES), 0, Nothing)
        .say(PLAIN, Code::GET_PROTOCOL_FEATURES, NO_BODY, 0, Bytes(8))
        .say(PLAIN, Code::SET_PROTOCOL_FEATURES, &wide(protocol.0), 0, Nothing)
        .say(ASK, Code::GET_MAX_MEM_SLOTS, NO_BODY, 0, Bytes(8))
        .say(ASK, Code::GET_CONFIG, &config(0, 60, 0, &[0; 60]), 0, Bytes(72))
        .say(ASK, Code::ADD_MEM_REG, &single(3), 1, Done)
        .ring(ASK, 0, || Done)
        .say(ASK, Code::SET_VRING_ENABLE, state(0, 1).as_bytes(), 0, Done)
        .say(ASK, Code::REM_MEM_REG, &single(3), 1, Done);
}

#[test]
fn alioth_asks_before_it_may_and_kicks_first() {
    let protocol = ProtocolFeatures::MQ
        | ProtocolFeatures::REPLY_ACK
        | ProtocolFeatures::CONFIGURE_MEM_SLOTS
        | ProtocolFeatures::CONFIG;
    Scene::new()
        .say(ASK, Code::GET_FEATURES, NO_BODY, 0, Bytes(8))
        .say(ASK, Code::GET_PROTOCOL_FEATURES, NO_BODY, 0, Bytes(8))
        .say(ASK, Code::SET_PROTOCOL_FEATURES, &wide(protocol.0), 0, Done)
        .say(ASK, Code::GET_QUEUE_NUM, NO_BODY, 0, Bytes(8))
        .say(ASK, Code::SET_VRING_ERR, &wide(0), 1, Done)
        .say(ASK, Code::SET_OWNER, NO_BODY, 0, Done)
        .say(ASK, Code::GET_CONFIG, &config(20, 4, 0, &[0; 4]), 0, Bytes(16))
        .say(ASK, Code::SET_VRING_KICK, &wide(3), 1, Done)
        .say(ASK, Code::SET_VRING_KICK, &wide(0), 1, Done)
        .say(ASK, Code::SET_FEATURES, &wide(FEATURES), 0, Done)
        .say(ASK, Code::ADD_MEM_REG, &single(0), 1, Done)
        .ring(ASK, 0, || Done)
        .say(ASK, Code::SET_VRING_ENABLE, state(0, 1).as_bytes(), 0, Done)
        .say(ASK, Code::SET_VRING_ENABLE, state(0, 0).as_bytes(), 0, Done);
}

#[test]
fn openvmm_reads_config_in_words_beyond_its_end() {
    let mut scene = Scene::new();
    scene.say(PLAIN, Code::GET_FEATURES, NO_BODY, 0, Bytes(8)).say(
        PLAIN,
        Code::SET_PROTOCOL_FEATURES,
        &wide(ProtocolFeatures::DEFAULT_OFFER.0),
        0,
        Nothing,
    );
    for offset in (0..256).step_by(4) {
        scene.say(ASK, Code::GET_CONFIG, &config(offset, 64, 0, &[0; 64]), 0, Bytes(76));
    }
}

#[test]
fn libkrun_sets_owner_at_every_activation() {
    let mut scene = Scene::new();
    for _activation in 0..3 {
        scene
            .say(PLAIN, Code::SET_OWNER, NO_BODY, 0, Nothing)
            .say(PLAIN, Code::GET_FEATURES, NO_BODY, 0, Bytes(8))
            .say(PLAIN, Code::SET_FEATURES, &wide(FEATURES), 0, Nothing)
            .say(PLAIN, Code::SET_PROTOCOL_FEATURES, &wide(ProtocolFeatures::CONFIG.0), 0, Nothing)
            .say(PLAIN, Code::SET_MEM_TABLE, &table(2), 2, Nothing)
            .ring(PLAIN, 0, || Nothing)
            .say(PLAIN, Code::SET_VRING_ENABLE, state(0, 0).as_bytes(), 0, Nothing);
    }
}
