"""What one worker allows at a time: viewers (`viewers`), request bodies (`uploads`), origins (`origins`), and how fast
a viewer must be (`rates`). Pure state: no socket, no clock, no loop; decision 0031 gives the reasons."""
