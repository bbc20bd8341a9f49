"""Limits on what one worker allows at a time: viewers (`viewers`), request bodies (`uploads`), and origins
(`origins`), and the minimum rate of a viewer (`rates`). Pure state: no socket, no clock, no event loop. Decision 0031
gives the reasons."""
