//! Nothing is leaked. One test alone in its process, so that the number of open descriptors means something.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::os::unix::net::UnixStream;

use outboard_vhost_user::back_channel::{Responder, Terms};
use outboard_vhost_user::transport::{Transport, UnixTransport};
use outboard_vhost_user::{Frame, FrontendRequest, Refusal};
use support::{everything, fds, fresh, ready};

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn descriptors_of_any_message_in_any_state_are_closed() {
    let before = open_descriptors();
    for code in 0..=47 {
        for (body, fd_count) in [(0, 3), (8, 1), (8, 5), (16, 2), (24, 1), (40, 0), (40, 253), (3, 7)] {
            let (left, right) = UnixStream::pair().unwrap();
            let (mut left, mut right) = (UnixTransport::new(left), UnixTransport::new(right));
            let frame = || Frame { request: code, flags: 9, body: vec![0; body], fds: fds(fd_count) };
            left.send_split(frame(), 7).unwrap();
            for mut session in [fresh(), ready()] {
                // Decoded and dropped.
                let _ = session.decode(frame());
                // Decoded and answered.
                let refused = session.answer(Err(Refusal::failed(FrontendRequest(code), "no")));
                drop(refused);
            }
            let terms = Terms { protocol: everything(), access_platform: true, queues: 4 };
            let _ = Responder::new(terms).decode(frame());
            // Sent, and received by half the peers only.
            if code % 2 == 0 {
                let _ = ready().decode(right.receive().unwrap().unwrap());
            }
        }
    }
    assert_eq!(open_descriptors(), before);
}
