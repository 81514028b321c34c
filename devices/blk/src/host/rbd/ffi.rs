//! What is called of librados and librbd (`rados/librados.h`, `rbd/librbd.h`), as their headers of Ceph 16 to 18 have it.
//! The libraries are trusted: they are linked in.
#![allow(unsafe_code)] // a C library

use std::ffi::{c_char, c_int, c_void};

use libc::iovec;

pub(super) type Rados = *mut c_void;
pub(super) type Pool = *mut c_void;
pub(super) type Image = *mut c_void;
pub(super) type Completion = *mut c_void;
pub(super) type Callback = unsafe extern "C" fn(Completion, *mut c_void);

/// `RBD_WRITE_ZEROES_FLAG_THICK_PROVISION`.
pub(super) const THICK: c_int = 1;

#[link(name = "rados")]
unsafe extern "C" {
    pub(super) fn rados_create(cluster: *mut Rados, id: *const c_char) -> c_int;
    pub(super) fn rados_conf_read_file(cluster: Rados, path: *const c_char) -> c_int;
    pub(super) fn rados_conf_set(cluster: Rados, option: *const c_char, value: *const c_char) -> c_int;
    pub(super) fn rados_connect(cluster: Rados) -> c_int;
    pub(super) fn rados_shutdown(cluster: Rados);
    pub(super) fn rados_ioctx_create(cluster: Rados, pool: *const c_char, io: *mut Pool) -> c_int;
    pub(super) fn rados_ioctx_set_namespace(io: Pool, name: *const c_char);
    pub(super) fn rados_ioctx_destroy(io: Pool);
}

#[link(name = "rbd")]
unsafe extern "C" {
    pub(super) fn rbd_open(
        io: Pool,
        name: *const c_char,
        image: *mut Image,
        snapshot: *const c_char,
    ) -> c_int;
    pub(super) fn rbd_open_read_only(
        io: Pool,
        name: *const c_char,
        image: *mut Image,
        snapshot: *const c_char,
    ) -> c_int;
    pub(super) fn rbd_close(image: Image) -> c_int;
    pub(super) fn rbd_get_size(image: Image, size: *mut u64) -> c_int;
    pub(super) fn rbd_get_stripe_unit(image: Image, unit: *mut u64) -> c_int;
    pub(super) fn rbd_aio_create_completion(arg: *mut c_void, done: Callback, out: *mut Completion) -> c_int;
    pub(super) fn rbd_aio_get_return_value(completion: Completion) -> isize;
    pub(super) fn rbd_aio_release(completion: Completion);
    pub(super) fn rbd_aio_readv(
        image: Image,
        to: *const iovec,
        count: c_int,
        offset: u64,
        completion: Completion,
    ) -> c_int;
    pub(super) fn rbd_aio_writev(
        image: Image,
        from: *const iovec,
        count: c_int,
        offset: u64,
        completion: Completion,
    ) -> c_int;
    pub(super) fn rbd_aio_write_zeroes(
        image: Image,
        offset: u64,
        len: usize,
        completion: Completion,
        zero_flags: c_int,
        op_flags: c_int,
    ) -> c_int;
    pub(super) fn rbd_aio_discard(image: Image, offset: u64, len: u64, completion: Completion) -> c_int;
    pub(super) fn rbd_aio_flush(image: Image, completion: Completion) -> c_int;
}
