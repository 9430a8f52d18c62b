from artgen.cli import main

raise SystemExit(main())
