//! What a descriptor is, by what the kernel says of it (proc(5), fstat).

use std::os::fd::{AsRawFd, BorrowedFd};

use outboard_vhost_user::observe::{Descriptor, DescriptorKind};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};

/// Looks at a descriptor. What cannot be found out is said to be something else.
pub(super) fn describe(fd: BorrowedFd<'_>) -> Descriptor {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default();
    let link = link.to_string_lossy();
    let stat = fstat(fd);
    let kind = stat.as_ref().map(|stat| FileType::from_raw_mode(stat.st_mode));
    let kind = match kind {
        Ok(FileType::Socket) => DescriptorKind::Socket,
        Ok(FileType::Fifo) if writes(fd) => DescriptorKind::PipeWrite,
        Ok(FileType::Fifo) => DescriptorKind::PipeRead,
        Ok(FileType::RegularFile) => DescriptorKind::File,
        _ if link.contains("[eventfd]") => DescriptorKind::Event,
        _ => DescriptorKind::Other,
    };
    let size = match (kind, stat) {
        (DescriptorKind::File, Ok(stat)) => u64::try_from(stat.st_size).unwrap_or(0),
        _ => 0,
    };
    Descriptor { kind, size, name: name(&link) }
}

/// `/memfd:ram (deleted)` is `memfd:ram`, `anon_inode:[eventfd]` is `eventfd`.
fn name(link: &str) -> String {
    let link = link.strip_prefix("/memfd:").map_or_else(
        || link.to_owned(),
        |name| format!("memfd:{}", name.strip_suffix(" (deleted)").unwrap_or(name)),
    );
    match link.strip_prefix("anon_inode:") {
        Some(name) => name.trim_matches(['[', ']']).to_owned(),
        None => link,
    }
}

fn writes(fd: BorrowedFd<'_>) -> bool {
    fcntl_getfl(fd).is_ok_and(|flags| flags & OFlags::RWMODE != OFlags::RDONLY)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn describe_tells_what_descriptors_are() {
        let memory = memfd_create("ram of 8K", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, 8192).unwrap();
        let found = describe(memory.as_fd());
        assert_eq!(
            found,
            Descriptor { kind: DescriptorKind::File, size: 8192, name: "memfd:ram of 8K".into() }
        );
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let found = describe(event.as_fd());
        assert_eq!((found.kind, found.name.as_str()), (DescriptorKind::Event, "eventfd"));
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert_eq!(describe(read.as_fd()).kind, DescriptorKind::PipeRead);
        assert_eq!(describe(write.as_fd()).kind, DescriptorKind::PipeWrite);
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(describe(socket.as_fd()).kind, DescriptorKind::Socket);
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(describe(null.as_fd()).kind, DescriptorKind::Other);
    }
}
