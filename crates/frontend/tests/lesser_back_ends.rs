//! Back ends that lack this or that, down to those from before there were protocol features: packets go and come all
//! the same, through a stop, a change of memory, and a reset. They are one real back end, of which less is shown.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io;
use std::os::fd::BorrowedFd;

use outboard_backend::EngineChoice;
use outboard_frontend::drivers::{Net, NetOptions};
use outboard_frontend::{Error, Format, Frontend, Options, PROTOCOL_FEATURES, RegionSpec, Wishes};
use outboard_vhost_user::transport::{Transport, UnixTransport};
use outboard_vhost_user::{Frame, FrontendRequest, ProtocolFeatures};
use outboard_virtio_defs::features as bits;
use outboard_virtio_defs::net::F_MRG_RXBUF;

mod rig;

use rig::LONG;
use rig::echo::{MAC, patient_with_memory, serve};

/// Shows less than there is.
struct Lesser {
    inner: UnixTransport,
    features: u64,
    protocol: u64,
}

impl Transport for Lesser {
    fn receive(&mut self) -> io::Result<Option<Frame>> {
        let Some(mut frame) = self.inner.receive()? else { return Ok(None) };
        let shown = match FrontendRequest(frame.request) {
            FrontendRequest::GET_FEATURES => self.features,
            FrontendRequest::GET_PROTOCOL_FEATURES => self.protocol,
            _ => return Ok(Some(frame)),
        };
        let all = u64::from_ne_bytes(frame.body.as_slice().try_into().unwrap());
        frame.body = (all & shown).to_ne_bytes().to_vec();
        Ok(Some(frame))
    }

    fn send(&mut self, frame: Frame) -> io::Result<()> {
        self.inner.send(frame)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

fn before(features: u64, protocol: u64, acks: bool) -> Frontend {
    let (stream, _back_end) = serve(1, EngineChoice::Epoll);
    let lesser = Lesser { inner: UnixTransport::new(stream), features, protocol };
    Frontend::from_transport(lesser, Options { acks, ..patient_with_memory() }).unwrap()
}

fn options(format: Format) -> NetOptions {
    let wishes = Wishes { format, inflight: Some((2, 64)), ..NetOptions::default().wishes };
    NetOptions { wishes, queue_size: 64, ..NetOptions::default() }
}

/// No two packets alike.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (len + at * 7 + at / 251) as u8).collect()
}

fn echoes(net: &mut Net, what: &str) {
    for len in [64, 1500, 5000] {
        let sent = pattern(len);
        net.send(&sent).unwrap();
        let mut received = vec![0; len];
        assert_eq!(net.receive(&mut received, LONG).unwrap(), Some(len), "{what}");
        assert!(received == sent, "{what}");
    }
}

/// All that a driver does in a life, twice.
fn lives(mut frontend: Frontend, format: Format, what: &str) {
    for _ in 0..2 {
        let mut net = Net::open(frontend, &options(format)).unwrap();
        echoes(&mut net, what);
        let (control, pairs) = net.parts();
        let (rx, tx) = pairs[0].halves();
        for queue in [rx.queue(), tx.queue()] {
            let base = control.stop(queue).unwrap();
            control.resume(queue, base).unwrap();
        }
        let region = RegionSpec::new(0x2_0000_0000, 1 << 20);
        control.add_region(&region).unwrap();
        echoes(&mut net, what);
        net.frontend().remove_region(region.gpa).unwrap();
        echoes(&mut net, what);
        frontend = net.close().unwrap();
    }
}

#[test]
fn back_end_without_any_one_protocol_feature_is_driven() {
    for &(missing, name) in ProtocolFeatures::NAMED {
        if PROTOCOL_FEATURES.contains(missing) {
            for acks in [true, false] {
                let frontend = before(u64::MAX, !missing.0, acks);
                assert!(!frontend.protocol().contains(missing));
                lives(frontend, Format::Split, name);
            }
        }
    }
}

#[test]
fn back_end_without_protocol_features_is_driven() {
    for format in [Format::Split, Format::Packed] {
        for protocol in [ProtocolFeatures::EMPTY, ProtocolFeatures::CONFIG, ProtocolFeatures::REPLY_ACK] {
            let frontend = before(u64::MAX, protocol.0, true);
            assert_eq!(frontend.protocol(), protocol);
            lives(frontend, format, "few");
        }
    }
}

#[test]
fn back_end_from_before_protocol_features_is_driven() {
    for format in [Format::Split, Format::Packed] {
        let frontend = before(!bits::VHOST_USER_F_PROTOCOL_FEATURES, u64::MAX, true);
        assert_eq!(frontend.offer().protocol, ProtocolFeatures::EMPTY);
        assert_eq!(frontend.offer().queues, None);
        lives(frontend, format, "old");
    }
}

#[test]
fn back_end_without_ring_features_is_driven() {
    let plain = bits::VIRTIO_F_VERSION_1 | bits::VHOST_USER_F_PROTOCOL_FEATURES | F_MRG_RXBUF;
    lives(before(plain, u64::MAX, true), Format::Split, "plain");
}

#[test]
fn configuration_is_read_where_there_is_one_and_else_an_error() {
    let net = Net::open(before(u64::MAX, u64::MAX, true), &options(Format::Split)).unwrap();
    assert_eq!(net.mac(), Some(MAC));
    let mut net =
        Net::open(before(u64::MAX, !ProtocolFeatures::CONFIG.0, true), &options(Format::Split)).unwrap();
    assert_eq!(net.mac(), None);
    let error = net.frontend().read_config(0, &mut [0; 6]).unwrap_err();
    assert!(matches!(error, Error::Refused(_)) && error.to_string().contains("CONFIG"), "{error}");
}

#[test]
fn log_needs_what_it_needs() {
    let mut frontend = before(u64::MAX, !ProtocolFeatures::LOG_SHMFD.0, true);
    frontend.agree(&Wishes::default()).unwrap();
    let error = frontend.start_logging().unwrap_err();
    assert!(matches!(error, Error::ProtocolMissing(ProtocolFeatures::LOG_SHMFD)), "{error}");
    let mut frontend = before(!bits::VHOST_F_LOG_ALL, u64::MAX, true);
    frontend.agree(&Wishes::default()).unwrap();
    let error = frontend.start_logging().unwrap_err();
    assert!(matches!(error, Error::FeaturesMissing(bits::VHOST_F_LOG_ALL)), "{error}");
}
