//! Validated values shared by all of Sluice: device ids, tenants, session ids.
