//! Serves a device over vhost-user.

mod stop;

pub use stop::Stop;
