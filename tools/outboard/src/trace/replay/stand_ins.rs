//! Descriptors in the place of recorded ones: of the same kind and size, with nothing in them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use outboard_vhost_user::codec::write_verdict;
use outboard_vhost_user::message::flags;
use outboard_vhost_user::observe::{Descriptor, DescriptorKind};
use outboard_vhost_user::transport::{Transport, UnixTransport};
use outboard_vhost_user::{BackendRequest, FrontendRequest};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};

/// How many messages of the back end are remembered.
const MOST_HEARD: usize = 1000;

/// Makes descriptors, and holds the other ends of those that have one.
#[derive(Debug, Default)]
pub(super) struct StandIns {
    /// What the back end gave as its in-flight buffer.
    pub(super) inflight: Option<OwnedFd>,
    held: Vec<OwnedFd>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl StandIns {
    /// One like `recorded`, which came with `code`.
    ///
    /// # Errors
    /// The host does not give it.
    pub(super) fn make(
        &mut self,
        code: Option<FrontendRequest>,
        recorded: &Descriptor,
    ) -> io::Result<OwnedFd> {
        match (code, recorded.kind, &self.inflight) {
            (Some(FrontendRequest::SET_INFLIGHT_FD), _, Some(given)) => given.try_clone(),
            (_, DescriptorKind::File, _) => memory(recorded.size),
            (_, DescriptorKind::Event, _) => Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            (_, DescriptorKind::Socket, _) => {
                let (ours, theirs) = UnixStream::pair()?;
                if code == Some(FrontendRequest::SET_BACKEND_REQ_FD) {
                    self.listen(ours);
                } else {
                    self.held.push(ours.into());
                }
                Ok(theirs.into())
            }
            // What came through it was not recorded: it ends at once.
            (_, DescriptorKind::PipeRead, _) => Ok(pipe_with(PipeFlags::CLOEXEC)?.0),
            (_, DescriptorKind::PipeWrite, _) => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
                // Ends with the back end, or with us.
                thread::spawn(move || io::copy(&mut File::from(read), &mut io::sink()));
                Ok(write)
            }
            (_, DescriptorKind::Other, _) => Ok(File::open("/dev/null")?.into()),
        }
    }

    /// What the back end has said on back channels.
    pub(super) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Grants whatever the back end asks on its channel, but an object of another device: there is none.
    fn listen(&self, socket: UnixStream) {
        let heard = Arc::clone(&self.heard);
        // Ends when the back end closes, or with us.
        thread::spawn(move || {
            let mut channel = UnixTransport::new(socket);
            while let Ok(Some(frame)) = channel.receive() {
                let code = BackendRequest(frame.request);
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                if heard.len() < MOST_HEARD {
                    heard.push(code.to_string());
                }
                drop(heard);
                let lookup = code == BackendRequest::SHARED_OBJECT_LOOKUP;
                let answered = frame.flags & flags::NEED_REPLY != 0 || lookup;
                if answered && channel.send(write_verdict(code.0, u64::from(lookup))).is_err() {
                    return;
                }
            }
        });
    }
}

/// Memory like the recorded file, all zero.
fn memory(size: u64) -> io::Result<OwnedFd> {
    let file = memfd_create("replay", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, size)?;
    Ok(file)
}
