//! Files that load, and what they load as; files that do not, and the line that says why.

mod bad;
mod connections;
mod good;
mod routes;
mod tls;
