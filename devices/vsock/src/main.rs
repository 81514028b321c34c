//! The program `vhost-user-vsock`.

fn main() -> std::process::ExitCode {
    outboard_daemon::run_housed::<outboard_vsock::VhostUserVsock>()
}
