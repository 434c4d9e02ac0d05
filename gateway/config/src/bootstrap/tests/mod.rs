//! Files that load, and what they load as; files that do not, and the line that says why.

mod bad;
mod connections;
mod forms;
mod good;
mod page;
mod per_filter;
mod routes;
mod tls;
