//! The program `vhost-user-rng`.

fn main() -> std::process::ExitCode {
    outboard_daemon::run::<outboard_rng::VhostUserRng>()
}
