"""What training is made of, without Ray and DeepSpeed: tasks, settings, schedules, EMA, and a plain trainer."""
