//! Abuse: clients and processors that flood, stall, lie and never end. Each case bounds the gateway's memory and serves a normal client
//! beside the attack.
//!
//! Sizes are for a run of seconds; `EXTPROC_ABUSE_SCALE=20` makes them twenty times as large. `EXTPROC_ABUSE_PROXY=<path of an Envoy>`
//! runs the same against that, to compare; the figures are printed with `--nocapture`.

mod bodies;
mod http1;
mod http2;
mod limits;
mod processor;
mod shared;
mod upstream;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use libtest_mimic::{Arguments, Failed, Trial};
use tests::support::adversary::Adversary;
use tests::support::frames::kind;
use tests::support::rig::{Rig, Setup, Upstream, scale};

use self::{
    bodies::{
        bodies, buffered, empty_messages, held_chunks, many_buffered, many_held,
        many_held_of_the_process, many_unread, small_chunks,
    },
    http1::{
        header_flood, idle_connections, pipelined_flood, sends_on, slow_bodies, slow_heads,
        slow_readers,
    },
    http2::{
        acknowledges_nothing, continuation, control_flood, empty_data, half_a_head, header_bomb,
        http2_reads_nothing, idle_talk, made_you_reset, rapid_reset, small_data,
        small_data_streamed, small_window,
    },
    limits::{
        admin_flood, connection_limit, descriptors, large_immediate_responses, large_requests,
        memory_limit, unread_log,
    },
    processor::{
        deaf, deeds, goes_away, no_trailers, processor_floods, refused_upload, unread_copies,
    },
};

const MIB: u64 = 1024;

/// Memory that an attack may cost at most, whatever its size: buffers of one connection and noise.
const LITTLE: u64 = 24 * MIB;

/// Longest wait for an answer to a flood.
const PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let trials = vec![
        trial("http2/rapid-reset", || go(rapid_reset())),
        trial("http2/made-you-reset", || go(made_you_reset())),
        trial("http2/continuation", || go(continuation())),
        trial("http2/settings", || go(control_flood(kind::SETTINGS, 0))),
        trial("http2/ping", || go(control_flood(kind::PING, 8))),
        trial("http2/priority", || {
            go(idle_talk(kind::PRIORITY, &[0, 0, 0, 3, 1]))
        }),
        trial("http2/empty-data", || go(empty_data())),
        trial("http2/small-data", || go(small_data())),
        trial("http2/window-updates", || {
            go(idle_talk(kind::WINDOW_UPDATE, &[0, 0, 0, 1]))
        }),
        trial("http2/header-bomb", || go(header_bomb())),
        trial("http2/half-a-head", || go(half_a_head())),
        trial("http2/small-data-STREAMED", || go(small_data_streamed())),
        trial("http2/one-byte-window", || go(small_window(1))),
        trial("http2/zero-window", || go(small_window(0))),
        trial("http2/reads-nothing", || go(http2_reads_nothing())),
        trial("http2/acknowledges-nothing", || {
            go(acknowledges_nothing(false))
        }),
        trial("http2/asks-on-and-on", || go(acknowledges_nothing(true))),
        trial("http1/slow-heads", || go(slow_heads())),
        trial("http1/slow-bodies", || go(slow_bodies())),
        trial("http1/slow-readers", || go(slow_readers())),
        trial("http1/idle-connections", || go(idle_connections())),
        trial("http1/sends-on", || go(sends_on())),
        trial("http1/header-flood", || go(header_flood())),
        trial("http1/pipelined-flood", || go(pipelined_flood())),
        trial("limits/connections", || go(connection_limit())),
        trial("limits/memory", || go(memory_limit())),
        trial("limits/large-request-bodies", || go(large_requests())),
        trial("limits/large-immediate-responses", || {
            go(large_immediate_responses())
        }),
        trial("limits/descriptors", || go(descriptors())),
        trial("limits/admin", || go(admin_flood())),
        trial("limits/unread-log", || go(unread_log())),
        trial("bodies/NONE", || go(bodies("NONE"))),
        trial("bodies/STREAMED", || go(bodies("STREAMED"))),
        trial("bodies/BUFFERED_PARTIAL", || go(bodies("BUFFERED_PARTIAL"))),
        trial("bodies/FULL_DUPLEX_STREAMED", || {
            go(bodies("FULL_DUPLEX_STREAMED"))
        }),
        trial("bodies/GRPC", || go(bodies("GRPC"))),
        trial("bodies/empty-messages-GRPC", || go(empty_messages())),
        trial("bodies/BUFFERED", || go(buffered())),
        trial("bodies/BUFFERED-again-and-again", || go(many_buffered())),
        trial("bodies/small-chunks-NONE", || go(small_chunks("NONE"))),
        trial("bodies/small-chunks-STREAMED", || {
            go(small_chunks("STREAMED"))
        }),
        trial("bodies/small-chunks-FULL_DUPLEX_STREAMED", || {
            go(small_chunks("FULL_DUPLEX_STREAMED"))
        }),
        trial("bodies/held-chunks-BUFFERED", || {
            go(held_chunks("BUFFERED"))
        }),
        trial("bodies/held-chunks-BUFFERED_PARTIAL", || {
            go(held_chunks("BUFFERED_PARTIAL"))
        }),
        trial("bodies/many-held-on-a-connection", || go(many_held())),
        trial("bodies/many-unread-on-a-connection", || go(many_unread())),
        trial("bodies/many-held-of-the-process", || {
            go(many_held_of_the_process())
        }),
        trial("processor/deeds", || go(deeds())),
        trial("processor/floods", || go(processor_floods())),
        trial("processor/deaf-to-an-upload", || go(deaf())),
        trial("processor/unread-copies", || go(unread_copies())),
        trial("processor/refuses-an-upload", || go(refused_upload())),
        trial("processor/no-trailers", || go(no_trailers())),
        trial("processor/goes-away", || go(goes_away())),
        trial("upstream/answers-early", || go(upstream::answers_early())),
        trial("upstream/answers-beside-a-deaf-processor", || {
            go(upstream::answers_beside_a_deaf_processor())
        }),
        trial("shared/cancels", || go(shared::cancels())),
        trial("shared/empty-data", || go(shared::empty_data())),
        trial("shared/small-data", || go(shared::small_data())),
        trial("shared/small-uploads", || go(shared::small_uploads())),
        trial("shared/unread-uploads", || go(shared::unread_uploads())),
        trial("shared/deaf-clients", || go(shared::deaf_clients())),
        trial("shared/large-head", || go(shared::large_head())),
        trial("shared/refused-fields", || go(shared::refused_fields())),
        trial("shared/refused-fields-of-a-client", || {
            go(shared::refused_fields_of_a_client())
        }),
        trial("shared/unread-trailers", || go(shared::unread_trailers())),
        trial("shared/control-frames", || go(shared::control_floods())),
        trial("shared/large-request-head", || {
            go(shared::large_request_head())
        }),
        trial("shared/large-request-trailers", || {
            go(shared::large_request_trailers())
        }),
        trial("shared/large-heads-of-a-proxy", || {
            go(shared::large_heads_of_a_proxy())
        }),
        trial("shared/silent", || go(shared::silent_connection())),
        trial("shared/silent-without-limits", || {
            go(shared::silent_without_limits())
        }),
        trial("upstream/tunnel", || go(upstream::tunnel())),
        trial("upstream/interim-flood-http1", || {
            go(upstream::interim_flood(false))
        }),
        trial("upstream/interim-flood-http2", || {
            go(upstream::interim_flood(true))
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &str, test: fn() -> anyhow::Result<()>) -> Trial {
    Trial::test(name, move || {
        test().map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn go(test: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // No case hangs: what does not end by itself has failed.
    let limit = Duration::from_secs(60 + 60 * scale() as u64);
    tokio::runtime::Runtime::new()?.block_on(async {
        tokio::time::timeout(limit, test)
            .await
            .context("the case did not end")?
    })
}

async fn plain(manager: &str) -> anyhow::Result<(Upstream, Rig)> {
    let upstream = Upstream::start().await?;
    let setup = Setup {
        upstream: Some(upstream.address),
        manager: manager.to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    rig.normal_client().await?;
    Ok((upstream, rig))
}

async fn with_processor(filter: &str, route: &str) -> anyhow::Result<(Upstream, Adversary, Rig)> {
    let upstream = Upstream::start().await?;
    let processor = Adversary::start().await?;
    let setup = Setup {
        upstream: Some(upstream.address),
        processor: Some(processor.address),
        filter: filter.to_owned(),
        route: route.to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    rig.normal_client().await?;
    Ok((upstream, processor, rig))
}
