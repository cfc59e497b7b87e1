//! What a program that embeds the gateway adds to it.

mod balancers;
mod discoveries;
mod project;
mod services;
