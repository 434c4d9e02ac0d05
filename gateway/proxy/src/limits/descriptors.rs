//! Descriptors: how many the process may have open, and how they are shared out.
//!
//! Clients, upstreams and the admin server have shares of their own, so that none of them can take what the others
//! need, and a rest stays for what is not counted: names that are looked up, files that are read again.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files to the highest that this process may set (`RLIMIT_NOFILE`); gives the limit that holds then,
/// `None` if there is none.
///
/// For programs, before they start a gateway: the usual limit, 1024, is kept low for programs that use `select`, which
/// this library does not.
pub fn raise_open_files() -> Option<u64> {
    let now = getrlimit(Resource::Nofile);
    if now.current == now.maximum {
        return now.current;
    }
    let raised = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            now.current
        }
    }
}

/// Descriptors for what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Connections of clients.
    pub(crate) clients: usize,
    /// Connections to upstreams, processors among them.
    pub(crate) upstreams: usize,
    /// Connections of the admin server.
    pub(crate) admin: usize,
}

impl Shares {
    /// Of what the system allows, `counted` connections being open now. Without a limit there is no share that could be
    /// used up but that of the admin server.
    pub(crate) fn of_process(counted: usize) -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        // Listeners, logs, what the runtimes need.
        let own = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self::of(limit.unwrap_or(usize::MAX), own.saturating_sub(counted))
    }

    fn of(limit: usize, own: usize) -> Self {
        const REST: usize = 64;
        let rest = REST.min(limit / 8);
        let free = limit.saturating_sub(own).saturating_sub(rest);
        let admin = (free / 32).clamp(4, 64);
        // Each client may need a connection to an upstream.
        let clients = (free.saturating_sub(admin) / 2).max(16);
        Self {
            clients,
            upstreams: free.saturating_sub(admin).saturating_sub(clients).max(16),
            admin,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_leave_a_rest() {
        for (limit, own) in [
            (256, 20),
            (512, 20),
            (1024, 20),
            (1024, 300),
            (1 << 20, 100),
        ] {
            let Shares {
                clients,
                upstreams,
                admin,
            } = Shares::of(limit, own);
            let rest = limit - own - clients - upstreams - admin;
            assert!((32..=64).contains(&rest), "{limit}: {rest} are left");
            assert!(clients.abs_diff(upstreams) <= 1, "{clients} {upstreams}");
        }
        // A process that cannot work well works.
        let few = Shares::of(32, 30);
        assert_eq!((few.clients, few.upstreams, few.admin), (16, 16, 4));
    }
}
