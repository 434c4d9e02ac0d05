//! A/B routing: a share of the users gets variant `b`, the same ones every time.
//!
//! `cargo run --example ab_routing -- --share 10`
//!
//! The processor sets `x-variant` and has the proxy choose the route again; the routes match on that header. Needs no more
//! of the proxy than request headers; see `examples/README.md` for its routes.

use std::process::ExitCode;

use clap::Parser;
use extproc_sdk::{BoxError, Call, Headers, HeadersReply, Processor};
use quickstart::cli::{self, ListenAddr};
use ring::digest;

/// Divides users by the header `x-user`.
struct Variants {
    /// Percent of the users that get `b`.
    share: u8,
}

impl Variants {
    /// The same answer for the same user, in every process and after every restart.
    fn of(&self, user: &str) -> &'static str {
        let hash = digest::digest(&digest::SHA256, user.as_bytes());
        let first = hash.as_ref().first_chunk().copied().unwrap_or_default();
        let bucket = u64::from_be_bytes(first) % 100;
        if bucket < u64::from(self.share) {
            "b"
        } else {
            "a"
        }
    }
}

impl Processor for Variants {
    type State = &'static str;

    async fn request_headers(
        &self,
        call: &mut Call<&'static str>,
        headers: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        // Without a user there is nothing to be true to.
        call.state = headers.get_str("x-user").map_or("a", |user| self.of(user));
        Ok(HeadersReply::new()
            .set("x-variant", call.state)
            .clear_route_cache())
    }

    async fn response_headers(
        &self,
        call: &mut Call<&'static str>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        Ok(HeadersReply::new().set("x-variant", call.state))
    }
}

/// A processor that divides users into two variants.
#[derive(Parser)]
struct Args {
    /// Address to listen on: HOST:PORT, or :PORT for 127.0.0.1; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:18080")]
    listen: ListenAddr,
    /// Percent of the users that get variant b.
    #[arg(long, value_name = "PERCENT", default_value = "10", value_parser = clap::value_parser!(u8).range(..=100))]
    share: u8,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    cli::exit(cli::serve(Variants { share: args.share }, &args.listen).await)
}

#[cfg(test)]
mod tests {
    use extproc_sdk::testing::{FakeProxy, Message};

    use super::*;

    async fn variant(share: u8, request: Message) -> String {
        let mut exchange = FakeProxy::new(Variants { share }).exchange();
        let outcome = exchange.request(request).await.expect("an outcome");
        assert!(exchange.route_cleared());
        let request = outcome.forwarded().expect("a request");
        let outcome = exchange.response(Message::response(200)).await;
        let response = outcome
            .expect("an outcome")
            .forwarded()
            .expect("a response");
        assert_eq!(request.get("x-variant"), response.get("x-variant"));
        request.get("x-variant").expect("a variant").to_owned()
    }

    fn from(user: &str) -> Message {
        // A client does not choose for itself.
        Message::request("GET", "/")
            .header("x-user", user)
            .header("x-variant", "b")
    }

    #[tokio::test]
    async fn a_user_stays_with_a_variant() {
        for user in ["alice", "bob", "carol"] {
            let first = variant(50, from(user)).await;
            assert_eq!(variant(50, from(user)).await, first);
            assert_eq!(variant(0, from(user)).await, "a");
            assert_eq!(variant(100, from(user)).await, "b");
        }
        assert_eq!(variant(100, Message::request("GET", "/")).await, "a");
    }

    #[test]
    fn the_share_is_about_right() {
        let variants = Variants { share: 10 };
        let chosen = (0..10_000).filter(|user| variants.of(&user.to_string()) == "b");
        let chosen = chosen.count();
        assert!((900..1100).contains(&chosen), "{chosen}");
    }
}
